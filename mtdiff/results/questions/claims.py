"""What the papers claim, one by one, against the results of the studies: holds, does not, or cannot be said.

A claim is about the first metric of every task. Where it lacks runs, it names the suite that makes them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

from mtdiff.results.cells import mean_cost
from mtdiff.results.find import Found
from mtdiff.results.intervals import seed_interval
from mtdiff.results.protocol import every_option
from mtdiff.results.questions.compare import Comparison, Finding, Side, compare_sides, judge_interval
from mtdiff.results.render import number
from mtdiff.results.study import Run, Study, choose_study
from mtdiff.results.table import Column

JUDGED = 256
"""Test examples of a task that a result has to be judged on, as the suites say, to count for or against a claim."""
ATTENTION = ("self_attention", "cross_attention")
DEVIATION = Column("ffn", "relative change of the weights, over that of attention", "higher")
MTU, FINETUNE, DTR = Side("mtu", "main"), Side("finetune", "main"), Side("dtr", "main")
ONE = Side("mtu", "experts", options={"method.experts": 1})


@dataclass(frozen=True)
class Claim:
    """`better` is ahead of `than` in the first metric of every task, or of `tasks`. published: where, and figures."""

    text: str
    published: str
    better: Side
    than: Side
    tasks: Sequence[str] | None = None

    def judge(self, study: Study, every: Sequence[Run]) -> Finding:
        """study: of one budget. every: runs of any base and budget."""
        return compare_sides(study, self.better, self.than, self.tasks)


@dataclass(frozen=True)
class CostClaim(Claim):
    """The same, with what a call of one costs beside a call of the other."""

    def judge(self, study: Study, every: Sequence[Run]) -> Finding:
        found = super().judge(study, every)
        if found.missing:
            return found
        ours, theirs = (mean_cost([r.result for r in s.select(study)]).flops for s in (self.better, self.than))
        aside = f"{ours / theirs:.3g} times the FLOPs of a call" if ours and theirs else ""
        return Finding(found.verdict, found.parts, aside=aside)


@dataclass(frozen=True)
class DeviationClaim(Claim):
    """Feed-forward layers move further from the base than either kind of attention, relative to their size."""

    def judge(self, study: Study, every: Sequence[Run]) -> Finding:
        leads = list_deviation_leads(self.better.select(study))
        if not leads:
            return Finding("not run", missing=[self.better.suite])
        interval = seed_interval(leads)
        return Finding(judge_interval(interval), [Comparison(DEVIATION, interval, len(leads))])


@dataclass(frozen=True)
class SizeClaim(Claim):
    """The gain of `better` over `than` is larger on a small base than on a large one."""

    sizes: Sequence[str] = ("DiT-S/2", "DiT-XL/2")

    def judge(self, study: Study, every: Sequence[Run]) -> Finding:
        gains = [list_size_gains(every, self.better.method, self.than.method, size) for size in self.sizes]
        shared = [seed for seed in gains[0] if seed in gains[1]]
        if not shared:
            return Finding("not run", missing=[self.better.suite])
        interval = seed_interval([gains[0][seed][1] - gains[1][seed][1] for seed in shared])
        return Finding(judge_interval(interval), [Comparison(gains[0][shared[0]][0], interval, len(shared))])


def list_deviation_leads(runs: Sequence[Run]) -> list[float]:
    """By seed, over the tasks the mean lead of feed-forward layers over the attention that moves more."""
    found: dict[int, list[float]] = {}
    for run in runs:
        for parts in ((run.result.method_report.get("deviation") or {}).get("tasks") or {}).values():
            moved = [parts.get(name) for name in ("ffn", *ATTENTION)]
            if all(x is not None for x in moved):
                found.setdefault(run.result.seed, []).append(moved[0] - max(moved[1:]))
    return [mean(leads) for leads in found.values()]


def list_size_gains(runs: Sequence[Run], method: str, against: str, size: str) -> dict[int, tuple[Column, float]]:
    """By seed, the gain in the first metric of a method over another, both plain, on a base of that preset."""
    values: dict[tuple[str, int], tuple[Column, float]] = {}
    for run in (run for run in runs if run.result.status == "complete"):
        told = every_option(run.result)
        plain = not told.get("method.random") and str(told.get("balancing.weighting._target_")).endswith("Uniform")
        row = next((row for row in run.result.rows if row.model == "run" and row.value is not None), None)
        if plain and row is not None and told.get("backbone.preset") == size:
            values[run.result.method, run.result.seed] = Column(row.task, row.metric, row.direction), row.value or 0.0
    found = {}
    for (name, seed), (column, value) in values.items():
        if name == method and (against, seed) in values:
            sign = 1 if column.direction == "higher" else -1
            found[seed] = column, sign * (value - values[against, seed][1])
    return found


def pair(*tasks: str) -> Side:
    return Side("mtu", "task_subsets", tasks)


CLAIMS: Sequence[Claim] = (
    Claim(
        "One MTU on all tasks is better than a fine-tuned model for each task, on every task.",
        "MTU, SD 1.5: FID 7.2 / 12.9, editing 17.2 / 15.4, super-resolution 24.8 / 38.0; but inpainting 44.0 / 46.5",
        MTU,
        Side("finetune", "main", ()),
    ),
    Claim(
        "MTU is better than LoRA.",
        "MTU, SD 1.5: editing 17.2 / 8.3, super-resolution 24.8 / 43.3, inpainting 44.0 / 31.4",
        MTU,
        Side("lora_ffn", "main"),
    ),
    Claim(
        "MTU is better than IA3.",
        "MTU, SD 1.5: editing 17.2 / 11.2, super-resolution 24.8 / 39.3, inpainting 44.0 / 34.2",
        MTU,
        Side("ia3", "main"),
    ),
    Claim(
        "Four experts are better than one.",
        "MTU, SD 1.5: FID 7.2 / 7.3, editing 17.2 / 17.6, super-resolution 24.8 / 25.3, inpainting 44.0 / 44.0",
        MTU,
        ONE,
    ),
    Claim(
        "One expert is better than sixteen.",
        "MTU, SD 1.5: FID 7.3 / 8.5, editing 17.6 / 9.6, super-resolution 25.3 / 27.2, inpainting 44.0 / 36.5",
        ONE,
        Side("mtu", "experts", options={"method.experts": 16}),
    ),
    DeviationClaim(
        "Fine-tuning on single tasks moves feed-forward layers furthest.",
        "MTU's motivation; the paper shows norms of the differences, not relative to the weights",
        Side("finetune", "main", ()),
        Side("finetune", "main", ()),
    ),
    Claim(
        "Experts that start as slices of the layer are better than random ones.",
        "MTU starts from slices; no figure of the control is given",
        MTU,
        Side("mtu", "experts", options={"method.start": "random"}),
    ),
    Claim(
        "MTU's task norms help.",
        "MTU trains them; no figure of the control is given",
        MTU,
        Side("mtu", "experts", options={"method.norm_rate": 0}),
    ),
    Claim(
        "Edits and inpainting are better when learnt by themselves than with all tasks.",
        "MTU, SD 1.5: editing 20.6 / 17.2, inpainting 52.6 / 44.0",
        pair("edit", "inpaint"),
        MTU,
        ("edit", "inpaint"),
    ),
    Claim(
        "Text-to-image and edits are better when learnt by themselves than with all tasks.",
        "MTU, SD 1.5: FID 6.9 / 7.2, editing 18.5 / 17.2",
        pair("text_to_image", "edit"),
        MTU,
        ("text_to_image", "edit"),
    ),
    Claim(
        "Text-to-image and inpainting are worse when learnt by themselves than with all tasks.",
        "MTU, SD 1.5: FID 17.9 / 7.2, inpainting 30.0 / 44.0",
        MTU,
        pair("text_to_image", "inpaint"),
        ("text_to_image", "inpaint"),
    ),
    Claim(
        "DTR's masks by time improve on fine-tuning without masks.",
        "DTR: FID 10.99 to 7.32 (DiT, FFHQ), 12.59 to 8.90 (DiT-L/2, ImageNet), 3.12 to 2.65 (ADM, FFHQ)",
        DTR,
        FINETUNE,
    ),
    Claim(
        "Random masks are worse than none.",
        "DTR: FID 11.99 against 10.99 (FFHQ), 16.18 against 12.59 (DiT-L/2, ImageNet)",
        FINETUNE,
        Side("dtr", "dtr", options={"method.random": True}),
    ),
    SizeClaim(
        "DTR's gain shrinks as the base grows.",
        "DTR, ImageNet, FID: S 44.28 to 37.43, B 27.96 to 16.58, L 12.59 to 8.90, XL 9.40 to 10.85",
        Side("dtr", "dtr_dit"),
        Side("finetune", "dtr_dit"),
    ),
    CostClaim(
        "ONE-PIC's canvas of twice the width pays: it is better than LoRA.",
        "ONE-PIC tunes by LoRA without further modules; the tokens are twice as many",
        Side("one_pic", "main"),
        Side("lora_ffn", "main"),
    ),
)


def describe_part(part: Comparison) -> str:
    """`edit lpips_alex: +0.003 [-0.010, 0.016], 3 seeds; 0.019 would be found`."""
    i = part.interval
    bounds = "" if i.low is None or i.high is None else f" [{number(i.low)}, {number(i.high)}]"
    seeds = f"{part.seeds} seed{'s' if part.seeds != 1 else ''}"
    power = part.detectable if part.verdict == "undecided at this size" else None
    found = "" if power is None else f"; {number(power)} would be found"
    return f"{part.column.task} {part.column.metric}: {i.value:+.3g}{bounds}, {seeds}{found}"


def describe_finding(finding: Finding) -> str:
    if finding.missing:
        return "needs " + ", ".join(f"`suite={name}`" for name in finding.missing)
    return "<br>".join([*map(describe_part, finding.parts), *([finding.aside] if finding.aside else [])])


def choose_judged(runs: Sequence[Run]) -> tuple[Study, list[Run]]:
    """The largest study among runs that were judged on enough examples, and all of those runs."""
    told = [(run, every_option(run.result).get("evaluation.per_task")) for run in runs]
    judged = [run for run, number in told if isinstance(number, int) and number >= JUDGED]
    return choose_study([Found(run.path, run.result) for run in judged]), judged


def list_claim_lines(runs: Sequence[Run]) -> Iterator[str]:
    """A Markdown table with a row a claim."""
    study, every = choose_judged(runs)
    yield "| claim | published | here | difference |"
    yield "|---|---|---|---|"
    for claim in CLAIMS:
        finding = claim.judge(study, every)
        yield f"| {claim.text} | {claim.published} | **{finding.verdict}** | {describe_finding(finding)} |"
