"""What a supernet's budgets cost and keep, measured on the networks that are left; and whether a promise is kept.

Letters: M modules.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mtdiff.costs.measure import MB, make_call, measure_latency
from mtdiff.costs.modules import count_whole
from mtdiff.methods.assembler import Assembler, find_assembler
from mtdiff.model.denoiser import Denoiser
from mtdiff.results.phases import Phases
from mtdiff.rng import numpy_rng
from mtdiff.runs.assemble import Keep, Limit, make_judge, search
from mtdiff.runs.drops import Noised
from mtdiff.runs.model import Model
from mtdiff.runs.module_costs import assemble_copy, build_costs, make_row


@dataclass(frozen=True)
class Network:
    """One call of a network that is left. turns: milliseconds, and of the whole network just after, in every turn."""

    flops: int
    memory_mb: float
    turns: Sequence[tuple[float, float]]


def read_supernet(model: Model) -> tuple[Denoiser, Assembler]:
    """ValueError where the model has one size."""
    denoiser = model.painter.denoiser
    assembler = find_assembler(denoiser.backbone.denoiser)
    if assembler is None:
        raise ValueError(f"{type(denoiser.method).__name__}: has one size, expected a run of method=budgeted")
    return denoiser, assembler


def propose_all(model: Model, budget: float) -> dict[str, Keep]:
    """The modules that are kept at a budget, by task."""
    denoiser, assembler = read_supernet(model)
    return {task: assembler.propose(k, budget)[0] for k, task in enumerate(denoiser.tasks)}


def measure_network(model: Model, task: str, keep: Keep, repeats: int) -> Network:
    """Take out what is not kept, and time what is left in turns with the whole network, after a turn to warm up."""
    denoiser, _ = read_supernet(model)
    number, source = denoiser.tasks.index(task), model.takes[task].image
    left, whole = (assemble_copy(denoiser, mask, number) for mask in (keep, [True] * len(keep)))
    row = make_row(left, source)
    calls = [make_call(network, row) for network in (left, whole)]
    flops, weights, activations = count_whole(left.backbone.denoiser, calls[0])
    pairs = [tuple(measure_latency(call, 1, 0)["median"] for call in calls) for _ in range(repeats + 1)]
    return Network(flops, (4 * weights + activations) / MB, [(a, b) for a, b in pairs[1:]])


def check_promises(
    model: Model, noised: Mapping[str, Noised], limits: int, candidates: int, repeats: int, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Search networks for random limits of latency, task by task, and time what was promised; seconds of each step.

    noised: validation examples of each task.
    """
    denoiser, assembler = read_supernet(model)
    for k in range(limits):
        task = denoiser.tasks[k % len(denoiser.tasks)]
        number, source, began = denoiser.tasks.index(task), model.takes[task].image, time.perf_counter()
        costs = build_costs(denoiser, assembler, number, source, Phases(shown=False))
        least, most = (costs.predict("latency_ms", [on] * len(costs.parts)) for on in (False, True))
        limit = Limit("latency_ms", least + float(numpy_rng(seed, "limit", k).random()) * (most - least))
        tabled = time.perf_counter()
        judge = make_judge(denoiser, assembler, noised[task], number)
        found = search(assembler, number, limit, costs, judge, candidates=candidates, seed=seed)
        searched = time.perf_counter()
        small = assemble_copy(denoiser, found.keep, number)
        row, assembled = make_row(small, source), time.perf_counter()
        measured = measure_latency(make_call(small, row), repeats)["median"]
        seconds = {"table": tabled - began, "search": searched - tabled, "assemble": assembled - searched}
        promised = costs.predict("latency_ms", found.keep)
        yield {"task": task, "limit_ms": limit.value, "promised_ms": promised, "measured_ms": measured, **seconds}


def summarise_promises(promises: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How far measured latencies are from promised ones, and medians of the seconds that each step took."""
    apart = [p["measured_ms"] / p["promised_ms"] - 1 for p in promises]
    names = ("table", "search", "assemble") if promises else ()
    steps = {name: round(median(p[name] for p in promises), 3) for name in names}
    return {
        "apart": [float(f"{x:.3g}") for x in apart],
        "within_5_percent": sum(abs(x) <= 0.05 for x in apart),
        "over_the_limit_by_5_percent": sum(p["measured_ms"] > 1.05 * p["limit_ms"] for p in promises),
        "median_seconds": steps,
    }
