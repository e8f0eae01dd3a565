"""What a run reports about its method beside its rows (`Result.method_report`): a few kilobytes, all optional.

    router        MTU: {block: {task: weights of the experts}}
    deviation     how far training has moved the base's weights, ||W - W0|| / ||W0||, per task and component, and per
                  transformer block over all tasks (the motivation of MTU, arXiv 2503.11905); or the reason why not
    curves        {name: {steps, values}}: losses of every task and what balancing measured, means over spans of steps
    cosines       {one/other: {mean, sd, n}}: between the tasks' gradients, where balancing measured them
    layer_cosines {layer: {mean, sd, n}}: the same by each layer of the network, mean over the pairs of tasks
    balancing     what balancing has learned

W of a task is the plain weight that the method's additions amount to, so that all methods are measured alike.
"""

import copy
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from mtdiff.backbones.base import Backbone, SiteKind
from mtdiff.methods.base import CannotFold
from mtdiff.model.denoiser import Denoiser

KINDS: tuple[SiteKind, ...] = ("self_attention", "cross_attention", "ffn")
COMPONENTS = (
    ("time embedding", r"(^|[._])(time|timestep|adaln)\w*"),
    ("norms", r"norm"),
    ("projections", r"(^|\.)proj_(in|out)(\.|$)"),
    ("convolutions", r"(^|\.)(resnets|\w*samplers)\."),
)
"""Components outside of sites, by the first pattern that a parameter's name holds."""
POINTS = 24  # of a curve
COSINE = "train/cosine/"
LAYER_COSINE = "train/layer_cosine/"
CURVES = ("train/loss/", "validation/loss/", COSINE)


@dataclass(frozen=True)
class Origin:
    """A denoising network before any method. components: of every weight, with the transformer block of its site."""

    weights: Mapping[str, Tensor]
    components: Mapping[str, tuple[str, str | None]]

    @classmethod
    def of(cls, backbone: Backbone) -> "Origin":
        weights = {k: v.clone() for k, v in backbone.denoiser.state_dict().items() if v.is_floating_point()}
        return cls(weights, find_components(backbone, weights))


def report_method(denoiser: Denoiser, base: Origin) -> dict[str, Any]:
    """Report what a method learned. denoiser: a trained one on the CPU, whose backbone was `base` before."""
    own = denoiser.method.report(denoiser.backbone, denoiser.tasks)
    try:
        return {**own, "deviation": measure_deviation(denoiser, base)}
    except CannotFold as error:
        return {**own, "deviation": {"reason": str(error)}}


# How far the weights have moved


@torch.no_grad()
def measure_deviation(denoiser: Denoiser, base: Origin) -> dict[str, Any]:
    """Return {tasks: {task: {component: ratio}}, blocks: {block: {component: ratio}}}, ratios to four digits."""
    by_task: dict[str, Any] = {}
    blocks = Sums()
    for k, task in enumerate(denoiser.tasks):
        sums = Sums()
        for name, moved, norm in measure_movements(denoiser, base.weights, k):
            component, block = base.components[name]
            sums.add(component, moved, norm)
            if block is not None:
                blocks.add((block, component), moved, norm)
        by_task[task] = sums.ratios()
    of_blocks: dict[str, dict[str, float | None]] = defaultdict(dict)
    for (block, component), ratio in blocks.ratios().items():
        of_blocks[block][component] = ratio
    return {"tasks": by_task, "blocks": dict(of_blocks)}


class Sums:
    """Squared lengths of movements and of the weights themselves, by any key."""

    def __init__(self) -> None:
        self._sums: dict[Any, tuple[float, float]] = {}

    def add(self, key: Any, moved: float, norm: float) -> None:
        a, b = self._sums.get(key, (0.0, 0.0))
        self._sums[key] = a + moved, b + norm

    def ratios(self) -> dict[Any, float | None]:
        return {k: round_digits((a / b) ** 0.5) if b > 0 else None for k, (a, b) in self._sums.items()}


def measure_movements(denoiser: Denoiser, base: Mapping[str, Tensor], task: int) -> Iterator[tuple[str, float, float]]:
    """Yield name, ||W - W0||^2 and ||W0||^2 of each weight of the base. New input channels count as zero before."""
    kept = {id(m): m for m in denoiser.backbone.children() if m is not denoiser.backbone.denoiser}
    plain = copy.deepcopy(denoiser.backbone, kept)
    denoiser.method.simplify(plain, task)
    found = plain.denoiser.state_dict()
    missing = [name for name in base if name not in found]
    if missing:
        raise CannotFold(f"{len(missing)} weights of the base are gone, first {missing[0]}")
    for name, old in base.items():
        new = found[name].double()
        if new.shape[:1] != old.shape[:1] or new.dim() != old.dim():
            raise CannotFold(f"{name} has shape {tuple(new.shape)}, the base's is {tuple(old.shape)}")
        start = torch.zeros_like(new)
        start[tuple(slice(n) for n in old.shape)] = old.double()
        yield name, float((new - start).square().sum()), float(start.square().sum())


def find_components(backbone: Backbone, names: Mapping[str, Any]) -> dict[str, tuple[str, str | None]]:
    """Return each weight's component, and the transformer block that its site belongs to."""
    sites = {f"{site.name}.": (kind, site.name.rpartition(".")[0]) for kind in KINDS for site in backbone.sites(kind)}
    sites |= {f"{site.name}.": ("input", None) for site in backbone.sites("input")}  # type: ignore[misc]
    return {name: _find_component(name, sites) for name in names}


def _find_component(name: str, sites: Mapping[str, tuple[str, str | None]]) -> tuple[str, str | None]:
    for prefix, found in sites.items():
        if name.startswith(prefix):
            return found
    return next((component for component, pattern in COMPONENTS if re.search(pattern, name)), "other"), None


# How training went


def report_training(rows: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """Return curves and cosines from the lines of `metrics.csv`."""
    series: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            if name.startswith((*CURVES, LAYER_COSINE)):
                series[name].append((int(row["step"]), float(value)))
    curves = {name: thin_curve(points) for name, points in sorted(series.items()) if name.startswith(CURVES)}
    found: dict[str, Any] = {"curves": curves}
    for key, start in (("cosines", COSINE), ("layer_cosines", LAYER_COSINE)):
        values = {name.removeprefix(start): s for name, s in sorted(series.items()) if name.startswith(start)}
        if values:
            found[key] = {name: _summarise([v for _, v in points if v == v]) for name, points in values.items()}
    return found


def _summarise(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {"mean": None, "sd": None, "n": 0}
    return {"mean": round_digits(fmean(values)), "sd": round_digits(pstdev(values)), "n": len(values)}


def thin_curve(points: Sequence[tuple[int, float]], most: int = POINTS) -> dict[str, list[float]]:
    """Average a curve over at most `most` spans of equally many points; the step of a span is its mean step."""
    number = min(most, len(points))
    ends = [round(i * len(points) / number) for i in range(number + 1)] if number else [0]
    spans = [points[a:b] for a, b in pairwise(ends)]
    return {
        "steps": [round(fmean(step for step, _ in span)) for span in spans],
        "values": [round_digits(fmean(value for _, value in span)) for span in spans],
    }


def round_digits(x: float, number: int = 4) -> float:
    return float(f"{x:.{number}g}")
