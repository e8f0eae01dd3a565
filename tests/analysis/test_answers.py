"""The notebook of single questions draws what results answer, and says what is missing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from little_answers import FOUR, PLAIN, answer, make_emma, make_joint

from mtdiff.results.record import Result

ROOT = Path(__file__).parents[2]
SEEDS = (0, 1)
TEN = tuple(PLAIN)


def make_runs() -> list[Result]:
    """Runs of every question at once, as they lie together in the committed results."""
    made: list[Result] = [*make_joint()]
    ends = {"validation": {"first": 0.4, "last": 0.1}, "gradient": {"first": 2.0, "last": 1.0}}
    merge = {"name": "ties", "scale": 0.4, "seconds": {"merge": 0.25}, "memory_mb": 12.5}
    for s in SEEDS:
        for tasks in (TEN[:2], TEN[:4], TEN):
            told = {"starvation": dict.fromkeys(tasks, ends)}
            told["method_report"] = {"router": {"a.ff": {task: [0.6, 0.4] for task in tasks}}}
            made.append(answer("mtu", s, tasks, 0.1, {"experts": 2}, **told))
            made.append(answer("finetune", s, tasks))
        made += [answer("finetune", s, [task]) for task in FOUR]
        parts = [{"method": "finetune", "tasks": [task], "samples_seen": 200} for task in FOUR]
        made.append(answer("finetune_ties", s, parts=parts, method_report={"merge": merge}))
        made += [make_emma("emma", s, ["object"], 0.2, base=0.0), make_emma("emma", s, ["style"], 0.1)]
        made.append(make_emma("emma_sum", s, ["object", "style"], 0.2, parts=[{"method": "emma"}]))
    return made


def show(results: Sequence[Result], folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the notebook displays of some results."""
    monkeypatch.syspath_prepend(str(ROOT / "analysis"))
    import plots
    import plots.canvas as canvas

    shown: list[str] = []
    for part in ("canvas", "claims", "company", "comparison", "references"):
        module = getattr(plots, part) if part != "canvas" else canvas
        monkeypatch.setattr(module, "display", lambda html: shown.append(html.data))
    for i, one in enumerate(results):
        one.save(folder / f"{i}.json")
    scope: dict[str, Any] = {"plots": plots, "RESULTS": f"{folder}/*.json"}
    for cell in json.loads((ROOT / "analysis/9_studies.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code" and "RESULTS =" not in "".join(cell["source"]):
            exec("".join(cell["source"]), scope)
    return shown


def test_every_question_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "\n".join(show(make_runs(), tmp_path, monkeypatch))
    assert page.count("<img ") == 5  # number of tasks, mixers, starvation, joint, kept
    assert "One MTU on all tasks is better" in page
    assert "finetune, merged by ties" in page
    assert "object + style, summed" in page
    assert "-X joint, then alone" in page
    assert "Left out, since of other tasks: joint (joint_masked + joint_label, seed 0)" in page


def test_what_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "\n".join(show([answer("mtu", 0)], tmp_path, monkeypatch))
    assert "<img " not in page
    for suite in ("suite=tasks", "suite=joint", "suite=emma", "studies/merging.py"):
        assert suite in page
    assert "Of 15 claims: 15 not run." in page
