"""A network for a task and a limit, from a run's supernet, without training (NN-Factory, arXiv 2308.15003).

The assembler proposes at the largest budget that keeps the limit; what it left room for is filled greedily in the order
of its logits; then single modules are exchanged for others while the error on validation examples falls. Everything is
a function of the seed, but for the latencies that are measured.

Letters: B batch, M modules.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mtdiff.config.schema import construct
from mtdiff.costs.measure import MB, make_call, measure_latency
from mtdiff.costs.modules import Costs, count_whole
from mtdiff.errors import RunError
from mtdiff.files.writing import write_atomically
from mtdiff.methods.assembler import Assembler
from mtdiff.methods.base import CannotFold
from mtdiff.methods.supernet import close_choice
from mtdiff.model.denoiser import Denoiser
from mtdiff.results.intervals import Interval, mean_interval, paired_difference
from mtdiff.rng import numpy_rng
from mtdiff.runs.adapter import About, identity
from mtdiff.runs.drops import Noised
from mtdiff.runs.export import export_pipeline
from mtdiff.runs.load import build_base, make_painter
from mtdiff.runs.model import Model
from mtdiff.runs.module_costs import assemble_copy, make_row

LIMITS = {"latency_ms": "ms", "flops": "FLOPs", "memory_mb": "MB"}
BUDGETS = 64  # at which the assembler is asked
TOLERANCE = 1e-4  # between what is written and the supernet, of the largest value
Keep = list[bool]
Judge = Callable[[Keep], Tensor]  # modules -> errors (B,)


@dataclass(frozen=True)
class Limit:
    """kind: one of LIMITS. value: in its unit, for one call of the denoiser with one sample."""

    kind: str
    value: float

    def describe(self, value: float) -> str:
        return f"{value:.4g} {LIMITS[self.kind]}"


@dataclass(frozen=True)
class Found:
    """What a search ended with: modules, errors (B,) of the network, and those of the whole one."""

    keep: Keep
    errors: Tensor
    whole: Tensor
    proposal: Keep
    tried: int


# Searching


def check_limit(limit: Limit, costs: Costs) -> None:
    """Refuse a limit that nothing keeps, with the least that is possible."""
    least = costs.predict(limit.kind, [False] * len(costs.parts))
    if least > limit.value:
        raise ValueError(
            f"{limit.kind}={limit.value:g}: nothing of this run is so small, the least is {limit.describe(least)}"
        )


def propose(assembler: Assembler, task: int, limit: Limit, costs: Costs) -> tuple[Keep, list[float]]:
    """The assembler's choice at the largest budget that keeps the limit, and the logits behind it."""
    for k in range(BUDGETS, 0, -1):
        keep, logits = assembler.propose(task, k / BUDGETS)
        if costs.predict(limit.kind, keep) <= limit.value:
            return keep, logits
    return [False] * len(costs.parts), logits


def fill(keep: Keep, logits: Sequence[float], limit: Limit, costs: Costs) -> Keep:
    """Switch on what still fits, best logit first; a slice after its block."""
    keep = list(keep)
    for k in sorted(range(len(keep)), key=lambda k: (-logits[k], k)):
        block = costs.parts[k].block
        if keep[k] or not (block is None or keep[block]):
            continue
        keep[k] = costs.predict(limit.kind, [on or i == k for i, on in enumerate(keep)]) <= limit.value
    return keep


def search(
    assembler: Assembler, task: int, limit: Limit, costs: Costs, judge: Judge, *, candidates: int, seed: int
) -> Found:
    """Proposal, greedy repair, and exchanges of single modules that lower the mean error. judge: errors (B,)."""
    check_limit(limit, costs)
    proposal, logits = propose(assembler, task, limit, costs)
    keep = fill(proposal, logits, limit, costs)
    errors, whole = judge(keep), judge([True] * len(keep))
    rng, tried = numpy_rng(seed, "assemble", task), 0
    for _ in range(candidates):
        other = exchange(keep, logits, limit, costs, rng)
        if other == keep or costs.predict(limit.kind, other) > limit.value:
            continue
        found, tried = judge(other), tried + 1
        if found.mean() < errors.mean():
            keep, errors = other, found
    return Found(close_choice(assembler.plan, keep), errors, whole, proposal, tried)


def exchange(keep: Keep, logits: Sequence[float], limit: Limit, costs: Costs, rng: Any) -> Keep:
    """Another choice: one module that is on goes, one that is off comes, and the rest of the room is filled."""
    on = [k for k, is_on in enumerate(keep) if is_on]
    off = [k for k, is_on in enumerate(keep) if not is_on and costs.parts[k].block is None]
    if not on or not off:
        return keep
    out, into = on[rng.integers(len(on))], off[rng.integers(len(off))]
    other = [(is_on and k != out) or k == into for k, is_on in enumerate(keep)]
    if costs.predict(limit.kind, other) > limit.value:
        return keep
    order = [value if k != out else min(logits) - 1 for k, value in enumerate(logits)]
    return fill(other, order, limit, costs)


def make_judge(denoiser: Denoiser, assembler: Assembler, noised: Noised, task: int) -> Judge:
    """Errors of the supernet with some modules alone on noised validation examples of one task."""
    condition = replace(noised.condition, task=torch.full_like(noised.condition.task, task))

    def judge(keep: Keep) -> Tensor:
        assembler.pinned = keep
        try:
            with torch.inference_mode():
                return denoiser.errors(noised.noisy, noised.t, condition, noised.target)
        finally:
            assembler.pinned = None

    return judge


# Writing


def build_about(about: About, options: Mapping[str, Any], task: str) -> dict[str, Any]:
    """`adapter.json` of the assembled network: a run of one task."""
    content = about.content
    sampling = {**content["sampling"], "budget": None}
    return {**content, "method": dict(options), "tasks": [task], "sampling": sampling}


def assemble(about: About, denoiser: Denoiser, keep: Keep, task: str) -> tuple[Denoiser, dict[str, Any]]:
    """The network of these modules alone on a base of its own, and what `adapter.json` says of it."""
    options = denoiser.method.assembly_options(about.content["method"], keep)
    left = assemble_copy(denoiser, keep, denoiser.tasks.index(task))
    state = left.backbone.denoiser.state_dict()
    small = Denoiser(build_base(about), construct(options), [task])
    small.load_adapter({name: state[name] for name in small.adapter()})
    return small.to(denoiser.device).eval(), build_about(about, options, task)


def check_equal(small: Denoiser, denoiser: Denoiser, assembler: Assembler, keep: Keep, noised: Noised) -> float:
    """The largest difference between the assembled network and the supernet, of the largest value.

    RunError where it is more than rounding.
    """
    task = torch.full_like(noised.condition.task, denoiser.tasks.index(small.tasks[0]))
    assembler.pinned = keep
    with torch.inference_mode():
        expected = denoiser(noised.noisy, noised.t, replace(noised.condition, task=task))
        alone = replace(noised.condition, task=torch.zeros_like(task))
        found = small(noised.noisy, noised.t, alone)
    assembler.pinned = None
    apart = float((found - expected).abs().max() / expected.abs().max().clamp_min(1))
    if not apart <= TOLERANCE:
        raise RunError(f"the assembled network differs from the run's own by {apart:.2g} of the largest value")
    return apart


def write_network(
    out: Path, small: Denoiser, content: Mapping[str, Any], about: About, model: Model, onnx: bool
) -> str:
    """Write a diffusers pipeline where a configuration says the network, else adapter and ONNX; what was written."""
    (task,) = small.tasks
    try:
        plain = Model(make_painter(small, replace(about.sampling, budget=None, switch=None)), {task: model.tasks[task]})
        return f"{export_pipeline(plain, task, out)} of diffusers"
    except CannotFold:
        write_adapter(out, small, content)
    if not onnx:
        return "adapter for load_run"
    apart = write_onnx(out / "denoiser.onnx", small, model.takes[task].image)
    return f"adapter for load_run, denoiser.onnx (differs by {apart:.1g})"


def write_adapter(out: Path, small: Denoiser, content: Mapping[str, Any]) -> None:
    tensors = {k: v.cpu().contiguous() for k, v in small.adapter().items()}
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "adapter.safetensors", save(tensors, metadata={"about": identity(content)}))
    write_atomically(out / "adapter.json", json.dumps(dict(content), indent=1) + "\n")


def write_onnx(path: Path, small: Denoiser, source: bool) -> float:
    """Export the denoiser; the largest difference of onnxruntime's prediction, of the largest value.

    RunError where it is more than rounding.
    """
    from mtdiff.runs.onnx import export_onnx, relative_error

    with torch.no_grad():
        make_call(small, make_row(small, source))()  # the one task stands in the routing, and so in the file
    exported = export_onnx(small.cpu(), path, source=source)
    apart = relative_error(exported)
    if not apart <= TOLERANCE:
        raise RunError(f"{path}: onnxruntime's prediction differs by {apart:.2g} of the largest value")
    return apart


# The card


def measure_small(small: Denoiser, source: bool, repeats: int = 20) -> dict[str, float]:
    """Measured latency, counted FLOPs, weights and memory of one call of an assembled network."""
    call = make_call(small, make_row(small, source))
    flops, weights, activations = count_whole(small.backbone.denoiser, call)
    latency = measure_latency(call, repeats)["median"]
    return {
        "latency_ms": latency,
        "flops": flops,
        "parameters": weights,
        "memory_mb": (4 * weights + activations) / MB,
    }


def build_card(limit: Limit, costs: Costs, found: Found, measured: Mapping[str, float], seed: int) -> dict[str, Any]:
    """Promised and measured costs, and the expected quality: the validation error beside the whole network's."""
    own, whole = found.errors.double().cpu().numpy(), found.whole.double().cpu().numpy()
    kinds = [kind for kind in LIMITS if kind != "latency_ms" or costs.table is not None]
    everything = [True] * len(found.keep)
    return {
        "limit": vars(limit),
        "promised": {kind: costs.predict(kind, found.keep) for kind in kinds},
        "measured": dict(measured),
        "whole": {**{kind: costs.predict(kind, everything) for kind in kinds}, "parameters": costs.weights},
        "error": vars(mean_interval(own, numpy_rng(seed, "own"))),
        "error_of_whole": vars(mean_interval(whole, numpy_rng(seed, "whole"))),
        "difference": vars(paired_difference(own, whole, numpy_rng(seed, "difference"))),
        "examples": len(own),
        "kept": [p.name for p, on in zip(costs.parts, found.keep, strict=True) if on],
        "gone": [p.name for p, on in zip(costs.parts, found.keep, strict=True) if not on],
        "tried": found.tried,
    }


def describe_card(card: Mapping[str, Any]) -> list[str]:
    """The card for a person."""
    promised, measured, whole = card["promised"], card["measured"], card["whole"]
    lines = []
    for kind, unit in LIMITS.items():
        said = f"promised {promised[kind]:.4g} {unit}, " if kind in promised else ""
        of = f", whole network {whole[kind]:.4g}" if kind in whole else ""
        lines.append(
            f"{kind:12}{said}{'measured' if kind == 'latency_ms' else 'counted'} {measured[kind]:.4g} {unit}{of}"
        )
    lines.append(
        f"{'parameters':12}{measured['parameters'] / 1e6:.2f}M, whole network {whole['parameters'] / 1e6:.2f}M"
    )
    error, base, apart = (card[name] for name in ("error", "error_of_whole", "difference"))
    lines.append(f"{'error':12}{show(error)}, whole network {show(base)}, difference {show(apart)}")
    lines.append(f"{'':12}of the prediction on {card['examples']} validation examples, with 95 % intervals")
    lines.append(f"{'modules':12}{len(card['kept'])} of {len(card['kept']) + len(card['gone'])}")
    return lines


def show(interval: Mapping[str, Any]) -> str:
    found = Interval(interval["value"], interval["low"], interval["high"])
    bounds = "" if found.low is None or found.high is None else f" [{found.low:.4g}, {found.high:.4g}]"
    return f"{found.value:.4g}{bounds}"
