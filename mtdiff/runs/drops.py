"""Which parts of a base can go: each is taken out alone, and the base's prediction is compared with what is left.

One-shot output error, |e_without - e_base|^2 / |e_base|^2, on noised validation examples: before any training, as a
first order of the candidates. What training gives back it does not know (BK-SDM, arXiv 2305.15798, found as much).

Letters: B batch, C latent channels, h w latent size.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mtdiff.backbones.base import Backbone
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.config.schema import construct
from mtdiff.costs.flops import count_flops
from mtdiff.data.mixture import Mixture
from mtdiff.model.conditioning import encode_condition
from mtdiff.rng import torch_rng
from mtdiff.types import Batch, Condition

WARMUP = 2  # turns that are not counted


@dataclass(frozen=True)
class Drop:
    """One part: the error without it, and what is saved of parameters, FLOPs and time, as shares of the whole base's.

    latency: median of the ratios of neighbouring calls, with their quartiles; None where nothing was timed.
    """

    name: str
    error: float
    parameters: float
    flops: float
    latency: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Noised:
    """Validation examples at times that cover the schedule evenly: noisy (B, C, h, w), t (B,).

    target: what is to be predicted of them, as `noisy`.
    """

    noisy: Tensor
    t: Tensor
    condition: Condition
    target: Tensor

    @classmethod
    def of(cls, backbone: Backbone, batch: Batch, seed: int) -> "Noised":
        diffusion = Diffusion(backbone.scheduler)
        latent = backbone.encode(batch.target)
        share = (torch.arange(len(batch)) + 0.5) / len(batch)
        order = torch.randperm(len(batch), generator=torch_rng(seed, "drops"))
        t = diffusion.steps * share[order]
        t = t if diffusion.flow else t.long()
        noise = torch.stack([torch.randn(latent.shape[1:], generator=torch_rng(seed, "drops", k)) for k in batch.key])
        noisy, target = (f(latent, noise, t) for f in (diffusion.noisy, diffusion.target))
        return cls(noisy, t, encode_condition(backbone, batch), target)

    def predict(self, backbone: Backbone, rows: slice = slice(None)) -> Tensor:
        """(B, C, h, w): what a base without any method predicts of them."""
        with torch.inference_mode():
            return backbone.predict(self.noisy[rows], self.t[rows], self.condition[rows])


def read_examples(plain: Mapping[str, Any]) -> Batch:
    """The validation examples of a run's configuration, `evaluation.validation_per_task` of each task."""
    tasks = [construct(plain["task"][name]) for name in plain["tasks"]]
    number = plain["evaluation"]["validation_per_task"]
    examples = Mixture.first_examples(construct(plain["data"]), tasks, "validation", number)
    return Batch.collate([examples[i] for i in range(len(examples))])


def rank_drops(backbone: Backbone, noised: Noised, repeats: int) -> list[Drop]:
    """Every part that the base can do without, by the error that is left, smallest first. repeats: turns of timing."""
    found = [measure_drop(backbone, name, noised, repeats) for name in backbone.drops()]
    if not found:
        raise ValueError(f"backbone: {type(backbone).__name__} names no parts to drop")
    return sorted(found, key=lambda drop: drop.error)


def measure_drop(backbone: Backbone, name: str, noised: Noised, repeats: int) -> Drop:
    around = {id(module): module for module in backbone.children() if module is not backbone.denoiser}
    lighter = copy.deepcopy(backbone, around)
    lighter.drops()[name]()
    expected = noised.predict(backbone)
    error = (noised.predict(lighter) - expected).square().mean() / expected.square().mean()
    calls = [partial(noised.predict, base, slice(0, 1)) for base in (lighter, backbone)]
    flops = [count_flops(base.denoiser, call).total for base, call in zip((lighter, backbone), calls, strict=True)]
    sizes = [sum(p.numel() for p in base.denoiser.parameters()) for base in (lighter, backbone)]
    latency = measure_saving(calls[0], calls[1], repeats) if repeats else None
    return Drop(name, float(error), 1 - sizes[0] / sizes[1], 1 - flops[0] / flops[1], latency)


def measure_saving(lighter: Callable[[], Any], whole: Callable[[], Any], repeats: int) -> tuple[float, float, float]:
    """Share of the time that the lighter call saves: median and quartiles over turns, in each of which both are run."""
    ratios = []
    for turn in range(-WARMUP, repeats):
        seconds = []
        for call in (lighter, whole):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        if turn >= 0:
            ratios.append(1 - seconds[0] / seconds[1])
    low, _, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return statistics.median(ratios), low, high


def describe_drops(found: list[Drop]) -> Iterator[str]:
    """The ranking for a person."""
    yield f"{'part':16}{'error':>10}{'parameters':>12}{'FLOPs':>9}   latency saved (quartiles)"
    for drop in found:
        line = f"{drop.name:16}{drop.error:10.4g}{-drop.parameters:12.1%}{-drop.flops:9.1%}"
        if drop.latency is not None:
            median, low, high = drop.latency
            line += f"   {median:.1%} ({low:.1%} to {high:.1%})"
        yield line
