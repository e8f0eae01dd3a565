"""What results answer to the studies' questions: verdicts, tables, shares, on invented results whose truth is known."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from little_answers import FOUR, PLAIN, answer, make_emma, make_joint

from mtdiff.results.find import Found, find
from mtdiff.results.intervals import Interval
from mtdiff.results.questions import claims, company, joint, references
from mtdiff.results.questions.compare import join_verdicts, judge_interval
from mtdiff.results.record import Result
from mtdiff.results.study import Run, choose_study, list_runs

SEEDS = (0, 1, 2)


def as_found(results: Sequence[Result]) -> list[Found]:
    return [Found(Path(f"{i}/result.json"), one) for i, one in enumerate(results)]


def as_runs(results: Sequence[Result]) -> list[Run]:
    return list_runs(as_found(results))[0]


def judge(results: Sequence[Result]) -> dict[str, Any]:
    """Findings by the beginning of the claim."""
    found = as_found(results)
    study, (every, _) = choose_study(found), list_runs(found)
    return {claim.text: claim.judge(study, every) for claim in claims.CLAIMS}


def pick(findings: dict[str, Any], start: str) -> Any:
    (found,) = [finding for text, finding in findings.items() if text.startswith(start)]
    return found


# Claims


def test_an_interval_decides() -> None:
    decided = [judge_interval(Interval(0.1, low, high)) for low, high in ((0.05, 0.2), (-0.2, -0.1), (-0.1, 0.2))]
    assert decided == ["holds", "does not hold", "undecided at this size"]
    assert judge_interval(Interval(0.1)) == "undecided at this size"
    assert join_verdicts(["holds", "undecided at this size"]) == "undecided at this size"
    assert join_verdicts(["undecided at this size", "does not hold"]) == "does not hold"
    assert join_verdicts(["holds", "holds"]) == "holds"


def test_claims_are_judged_as_the_results_were_made() -> None:
    made = [answer("mtu", s, gain=0.1) for s in SEEDS] + [answer("lora_ffn", s, gain=0.2) for s in SEEDS]
    made += [answer("finetune", s, [task]) for s in SEEDS for task in FOUR]
    made += [answer("mtu", s, gain=0.1, options={"experts": 1}) for s in SEEDS]
    found = judge(made)
    assert pick(found, "One MTU on all tasks").verdict == "holds"
    assert pick(found, "MTU is better than LoRA").verdict == "does not hold"
    tie = pick(found, "Four experts")
    assert tie.verdict == "undecided at this size"
    assert [part.seeds for part in tie.parts] == [3] * 4
    assert all(part.interval.value == pytest.approx(0.0, abs=1e-3) for part in tie.parts)
    assert pick(found, "One MTU").parts[0].interval.value == pytest.approx(0.1, abs=0.002)


def test_a_claim_names_the_suites_that_it_lacks() -> None:
    found = judge([answer("mtu", s) for s in SEEDS])
    assert {finding.verdict for finding in found.values()} == {"not run"}
    assert pick(found, "One MTU").missing == ["main"]
    assert pick(found, "Experts that start").missing == ["experts"]
    assert pick(found, "Random masks").missing == ["main", "dtr"]
    assert pick(found, "DTR's gain shrinks").missing == ["dtr_dit"]
    assert pick(found, "Edits and inpainting").missing == ["task_subsets"]


def test_variants_are_not_taken_for_the_method() -> None:
    """Runs of the control, of pairs of tasks and of another loss lie beside those of the method."""
    made = [answer("mtu", s, gain=0.1) for s in SEEDS] + [answer("mtu", s, ["edit", "inpaint"], 0.3) for s in SEEDS]
    made += [answer("mtu", s, options={"start": "random"}) for s in SEEDS]
    made += [answer("dtr", s) for s in SEEDS] + [answer("dtr", s, gain=-0.1, options={"random": True}) for s in SEEDS]
    made += [answer("finetune", s) for s in SEEDS]
    pcgrad = {"balancing": {"weighting": {"_target_": "mtdiff.training.balancing.Uniform"}, "pcgrad": True}}
    made += [answer("mtu", 0, gain=0.9, config=pcgrad)]
    found = judge(made)
    assert pick(found, "Experts that start").verdict == "holds"
    assert pick(found, "Random masks").verdict == "holds"
    pair = pick(found, "Edits and inpainting")
    assert pair.verdict == "holds"
    assert [part.column.task for part in pair.parts] == ["edit", "inpaint"]
    assert pair.parts[0].interval.value == pytest.approx(0.2, abs=0.002)


def test_deviation_and_sizes_and_costs() -> None:
    moved = {"tasks": {"edit": {"ffn": 0.3, "self_attention": 0.1, "cross_attention": 0.2}}}
    made = [answer("finetune", s, ["edit"], method_report={"deviation": moved}) for s in SEEDS]
    made += [answer("mtu", s) for s in SEEDS]
    lead = pick(judge(made), "Fine-tuning on single tasks")
    assert lead.verdict == "holds"
    assert lead.parts[0].interval.value == pytest.approx(0.1)
    sizes = {"DiT-S/2": 0.3, "DiT-XL/2": 0.1}
    made = [
        answer(method, s, ["edit"], gain if method == "dtr" else 0.0, config={"backbone": {"preset": size}})
        for s in SEEDS
        for size, gain in sizes.items()
        for method in ("dtr", "finetune")
    ]
    shrinks = pick(judge(made), "DTR's gain shrinks")
    assert shrinks.verdict == "holds"
    assert shrinks.parts[0].interval.value == pytest.approx(0.2, abs=0.01)
    dear = {"flops": 3e9, "flops_no_attn": 1e9, "latency_ms": {"median": 1.0, "p95": 2.0}, "peak_memory_mb": None}
    made = [answer("one_pic", s, cost=dear) for s in SEEDS] + [answer("lora_ffn", s, gain=0.1) for s in SEEDS]
    assert pick(judge(made), "ONE-PIC").aside == "3 times the FLOPs of a call"


def test_the_table_of_claims_says_what_a_tie_could_hide() -> None:
    made = [answer("mtu", s) for s in SEEDS] + [answer("mtu", s, options={"experts": 1}) for s in SEEDS]
    lines = list(claims.list_claim_lines(as_runs(made)))
    assert len(lines) == 2 + len(claims.CLAIMS)
    (experts,) = [line for line in lines if line.startswith("| Four experts")]
    assert "**undecided at this size**" in experts
    assert re.search(r"edit directional_similarity_embedded: [+-].* 3 seeds; \S+ would be found", experts)
    assert any("needs `suite=dtr_dit`" in line for line in lines)
    few = [replace(one, config={**one.config, "evaluation": {"per_task": 64}}) for one in made]
    assert all("**not run**" in line for line in list(claims.list_claim_lines(as_runs(few)))[2:])


# Joint generation


def test_joint_settings_stand_beside_the_paper() -> None:
    made = make_joint()
    table = joint.summarise_restoration(made)
    labels = [line.label for line in table.lines]
    assert labels == [
        *("-U joint", "-U joint, then alone", "-X joint", "-X joint, then alone", "-X alone", "mtu alone", "base"),
        "published: -X, ImageNet 64 px",
    ]
    shares = joint.list_share_columns(made)
    last = dict(zip(table.columns, table.lines[-1].cells, strict=True))
    assert [last[column].interval.value for column in shares.values()] == [0.035, 0.068, 0.099, 0.133]  # type: ignore[union-attr]
    best = [line.label for line in table.lines if line.cells[0].best]
    assert best == ["mtu alone"]
    assert {line.cells[0].seeds for line in table.lines[:6]} == {3}
    told = joint.summarise_labels(made)
    assert [line.label for line in told.lines][:5] == [
        *("-M joint", "-M joint, then alone", "-M alone", "-E joint", "-E joint, then alone"),
    ]
    assert list(joint.list_level_columns(made)) == [80, 60, 40, 20, 0]
    text = "\n".join(joint.list_joint_lines(made))
    assert "| published: -X, ImageNet 64 px |" in text
    assert list(joint.list_joint_lines([])) == []


# Reference pictures


def test_a_sum_keeps_a_share_of_each_gain() -> None:
    made = []
    for s in SEEDS:
        made += [make_emma("emma", s, ["object"], 0.2, base=0.0), make_emma("emma", s, ["style"], 0.1)]
        made.append(make_emma("emma", s, ["tone"], -0.1))
        made.append(make_emma("emma", s, ["style"], 0.05, options={"gate": "scalar"}))
        made.append(make_emma("emma", s, ["object", "style", "tone"], 0.3))
        made.append(make_emma("ip_adapter", s, ["style"], 0.02))
        made.append(make_emma("emma_sum", s, ["object", "style", "tone"], 0.12, parts=[{"method": "emma"}]))
    assert list(references.group_references(made)) == [
        *("object", "style", "tone", "style, gate=scalar", "object + style + tone, trained jointly"),
        *("ip_adapter, style", "object + style + tone, summed"),
    ]
    kept = {one.reference: one for one in references.list_kept(made)}
    assert kept["object"].share == pytest.approx(0.6, abs=0.02)
    assert kept["object"].verdict == "does not hold"
    assert kept["object"].beyond.value == pytest.approx(0.12 - 0.8 * 0.2, abs=0.003)
    assert kept["style"].share == pytest.approx(1.2, abs=0.05)
    assert kept["style"].verdict == "holds"
    assert kept["tone"].share is None
    text = "\n".join(references.list_reference_lines(made))
    assert "| object + style + tone | tone | clip_image_similarity_embedded | -0.1" in text
    assert "no gain to keep" in text
    assert "| base |" in text
    assert list(references.list_reference_lines([])) == []


# More tasks, and merging

TEN = tuple(PLAIN)


def test_more_tasks_are_told_by_number() -> None:
    made: list[Result] = []
    even, apart = [0.5, 0.5], [1.0, 0.0]
    for s in SEEDS:
        for number in (2, 4, 10):
            tasks = TEN[:number]
            router = {"a.ff": {task: apart if k % 2 else even for k, task in enumerate(tasks)}}
            ends = {"validation": {"first": 0.4, "last": 0.1}, "gradient": {"first": 2.0, "last": 1.0}}
            told = {"method_report": {"router": router}, "starvation": dict.fromkeys(tasks, ends)}
            made.append(answer("mtu", s, tasks, 0.01 * number, {"experts": 2}, **told))
            made.append(answer("finetune", s, tasks))
        made.append(answer("mtu", s, TEN[:3], 0.5))
        made.append(answer("mtu", s, TEN[:4], 0.9, {"experts": 2, "norm_rate": 0}))
    runs, _ = list_runs(as_found(made))
    table = company.summarise_company(runs)
    assert [line.label for line in table.lines] == [
        f"{name}, {number} tasks" for number in (2, 4, 10) for name in ("mtu, 2 experts", "finetune")
    ]
    assert [column.task for column in table.columns] == ["text_to_image", "edit"]
    (mixer, *others) = company.list_mixers(runs)["mtu, 2 experts", 10]
    assert len(others) == 2
    assert mixer.entropy == pytest.approx(0.5)
    assert mixer.distance == pytest.approx(0.5 * 25 / 45)
    starved = list(company.list_starvation(runs))
    assert ("mtu, 2 experts", "order", pytest.approx(0.25), pytest.approx(0.1)) in starved
    assert company.select_company([run for run in runs if len(run.result.tasks) < 5]) == {}
    text = "\n".join(company.list_company_lines(runs))
    assert "| mtu, 2 experts | order | 25% | 10% |" in text
    study = choose_study(as_found(made))
    assert set(study.tasks) == set(TEN[:4])  # the commonest, and the larger of those
    assert any("Left out, since of other tasks" in note for note in study.notes)


def test_mergers_stand_beside_what_they_are_made_of() -> None:
    made: list[Result] = []
    merge = {"name": "ties", "scale": 0.4, "seconds": {"merge": 0.25}, "memory_mb": 12.5}
    for s in SEEDS:
        made += [answer("finetune", s, [task]) for task in FOUR] + [answer("finetune", s, gain=0.1)]
        made += [answer("mtu", s, gain=0.1, options={"experts": 1}), answer("ia3", s)]
        parts = [{"method": "finetune", "tasks": [task], "samples_seen": 200} for task in FOUR]
        fields: dict[str, Any] = {"parts": parts, "method_report": {"merge": merge}}
        made.append(answer("finetune_ties", s, gain=-0.1, config={"training": {"steps": 9, "batch_size": 8}}, **fields))
    study = choose_study(as_found(made))
    table = company.summarise_merged(study)
    assert [line.label for line in table.lines] == [
        *("finetune, a model a task", "finetune, jointly", "finetune, merged by ties"),
    ]
    assert [line.label for line in table.lines if line.cells[0].best] == ["finetune, jointly"]
    assert "| finetune, merged by ties | 0.4, 0.4, 0.4 | 0.25 | 12.50 |" in list(company.list_merged_lines(study))
    assert list(company.list_merged_lines(choose_study(as_found(made[:4])))) == []


def test_committed_results_are_understood() -> None:
    """Whatever is committed gives lines or none, and never a fault."""
    found = find(str(Path(__file__).parents[2] / "experiments/results/**/*.json"))
    runs, _ = list_runs(found)
    results = [run.result for run in runs]
    lines = [*claims.list_claim_lines(runs), *joint.list_joint_lines(results), *company.list_company_lines(runs)]
    lines += [*references.list_reference_lines(results), *company.list_merged_lines(choose_study(found))]
    assert len(lines) >= len(claims.CLAIMS)
    assert not any("nan" in line.split() for line in lines)
