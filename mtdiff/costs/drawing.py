"""What the denoiser costs in drawing one picture: every step as it is planned, whole or inheriting, by either model.

The autoencoder, the text encoder and the sampler's own arithmetic are not counted. Letters: K predictions of a step.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from torch import inference_mode

from mtdiff.costs.flops import (
    Flops,
    count_flops,
    device_of,
    encode_prompt,
    guide_row,
    make_condition,
    make_inputs,
    values_at_hand,
)
from mtdiff.costs.measure import measure_latency
from mtdiff.model.drawing import Drawing, Step
from mtdiff.model.painter import Painter
from mtdiff.model.sampling import Guidance
from mtdiff.types import Condition, Text

PICTURE_S = 20.0  # seconds that a run spends on the time of a picture's steps, about


def plan_kinds(painter: Painter) -> Counter[Step]:
    """How many steps of each kind a drawing has."""
    return Counter(painter.plan())


def prepare_steps(painter: Painter, rows: Condition) -> Iterator[tuple[Step, int, Callable[[], object]]]:
    """Yield each kind of step with its number and a function that computes it once, for the K rows of one picture."""
    kinds = plan_kinds(painter)
    noisy, t = make_inputs(painter.denoiser.backbone, rows)
    drawing = Drawing(painter.denoiser, list(kinds), painter.inherit, painter.switch, painter.budget)
    for step in sorted(kinds, key=lambda step: (step.side, not step.whole)):
        if not step.whole:
            drawing.compute(Step(step.side, keep=True), noisy, t, rows)
        yield step, kinds[step], lambda step=step: drawing.compute(step, noisy, t, rows)  # type: ignore[misc]


def count_drawing(painter: Painter, rows: Condition) -> Flops:
    """Count the FLOPs of all steps of a drawing. rows: what a guided step predicts for one picture (K rows)."""
    total = attention = 0
    models = {"full": painter.denoiser} | ({} if painter.switch is None else {"light": painter.switch.light})
    with ExitStack() as stack:
        for model in models.values():
            stack.enter_context(values_at_hand(model))
        for step, number, compute in prepare_steps(painter, rows):
            flops = count_flops(models[step.side], compute)
            total, attention = total + number * flops.total, attention + number * flops.attention
    return Flops(total, attention)


def measure_drawing(painter: Painter, rows: Condition, repeats: int, warmup: int, most_s: float) -> dict[str, float]:
    """Time each kind of step, and sum over the steps of a drawing: milliseconds, by medians and by 95th percentiles.

    most_s: seconds that all kinds together may take, about.
    """
    total = {"median": 0.0, "p95": 0.0}
    rows = rows.to(device_of(painter.denoiser.backbone))
    if painter.switch is not None:
        painter.switch.light.backbone.denoiser.to(rows.source.device)
    kinds = len(plan_kinds(painter))
    with inference_mode():
        for _, number, compute in prepare_steps(painter, rows):
            times = measure_latency(compute, repeats, warmup, most_s / kinds)
            total = {name: total[name] + number * times[name] for name in total}
    return total


def time_turn(painter: Painter, rows: Condition) -> float:
    """Time one call of each kind of step, summed over the steps of a drawing, in seconds: a turn of a comparison."""
    with inference_mode():
        steps = prepare_steps(painter, rows)
        return sum(number * measure_latency(compute, 1, 0)["median"] for _, number, compute in steps) / 1e3


def measure_picture(painter: Painter, sources: Sequence[bool], repeats: int = 10, warmup: int = 2) -> dict[str, float]:
    """Make the `picture_...` of result.json's cost: one picture of the task whose drawing is dearest.

    sources: for each task of the painter's denoiser whether it has a source image.
    """
    backbone = painter.denoiser.backbone
    text, empty = encode_prompt(backbone), backbone.embed([""])
    rows = [guide_task(painter, text, empty, source, k) for k, source in enumerate(sources)]
    flops = [count_drawing(painter, row) for row in rows]
    dearest = max(range(len(rows)), key=lambda k: flops[k].total)
    named = {f"picture_{name}": value for name, value in flops[dearest].as_dict().items()}
    return {**named, "picture_ms": measure_drawing(painter, rows[dearest], repeats, warmup, PICTURE_S)["median"]}


def guide_task(painter: Painter, text: Text, empty: Text, source: bool, task: int) -> Condition:
    """Return the rows that a guided step predicts for one picture of a task, where the network is."""
    row = make_condition(painter.denoiser.backbone, text, source, task, painter.denoiser.method.reads)
    scales = painter.guidance.get(painter.denoiser.tasks[task], Guidance())
    rows = guide_row(row, empty, scales)
    device = device_of(painter.denoiser.backbone)
    return rows if device.type == "meta" else rows.to(device)


def describe_drawing(painter: Painter, predictions: int) -> dict[str, Any]:
    """Steps of a drawing for a table: all, those that inherit, those of the light model; predictions: K."""
    plan = painter.plan()
    inheriting, light = sum(not s.whole for s in plan), sum(s.side == "light" for s in plan)
    return {"predictions": predictions, "steps": len(plan), "inheriting_steps": inheriting, "light_steps": light}
