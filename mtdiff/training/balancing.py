"""How the errors of a batch become one loss: weights over time, weights over tasks, and conflicts between tasks.

Orthogonal to methods: every method trains under every balancing. Letters: B batch, T tasks, P trained numbers.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.rng import numpy_rng
from mtdiff.types import to_double


class Weighting(nn.Module, ABC):
    """Weighs each sample's error by its time. What it learns itself has the learning rate `lr`."""

    lr: float = 0.0

    @abstractmethod
    def forward(self, losses: Tensor, t: Tensor, diffusion: Diffusion) -> Tensor:
        """Weigh losses (B,) at times t (B,); returns what is averaged, (B,)."""

    def report(self) -> dict[str, Any]:
        """Return what it has learned, as plain JSON."""
        return {}


class Uniform(Weighting):
    """The plain prediction error."""

    def forward(self, losses: Tensor, t: Tensor, diffusion: Diffusion) -> Tensor:
        return losses


class MinSNR(Weighting):
    """min(SNR, gamma) on the error of the clean latent (arXiv 2303.09556, eq. 8), whatever the model predicts.

    For a noise prediction that is min(SNR, gamma) / SNR, for v min(SNR, gamma) / (SNR + 1). gamma = 5 in the paper.
    """

    def __init__(self, gamma: float = 5.0) -> None:
        super().__init__()
        if not gamma > 0:
            raise ValueError(f"balancing.weighting.gamma={gamma}: expected a positive number")
        self.gamma = gamma

    def forward(self, losses: Tensor, t: Tensor, diffusion: Diffusion) -> Tensor:
        return losses * diffusion.snr(t).clamp_max(self.gamma) * diffusion.clean_error(t)


class Uncertainty(Weighting):
    """ANT-UW: noise levels are tasks, weighted by learned uncertainties (arXiv 2306.00354; Kendall et al. 1705.07115).

    Times fall into `clusters` equal intervals; cluster k costs exp(-s_k) loss + s_k, so that s_k follows the logarithm
    of its mean error. Published: 8 clusters, s_k learned at 0.025 (through DTR's table); s_k starts at 0 (not given).
    """

    def __init__(self, clusters: int = 8, lr: float = 0.025) -> None:
        super().__init__()
        if clusters < 1:
            raise ValueError(f"balancing.weighting.clusters={clusters}: expected at least 1")
        if not lr > 0:
            raise ValueError(f"balancing.weighting.lr={lr}: expected a positive number")
        self.clusters, self.lr = clusters, lr
        self.s = nn.Parameter(torch.zeros(clusters))

    def forward(self, losses: Tensor, t: Tensor, diffusion: Diffusion) -> Tensor:
        cluster = (t * self.clusters / diffusion.steps).long().clamp_max(self.clusters - 1)
        s = self.s[cluster]  # (B,)
        return torch.exp(-s) * losses + s

    def report(self) -> dict[str, Any]:
        """Return s_k of the clusters, from the smallest times to the largest."""
        return {"uncertainties": [round(s, 4) for s in self.s.tolist()]}


class Balancing(nn.Module):
    """weighting: over time. weights: factor of a task's loss, 1 where not named (its share of the batch is another
    matter: `weights` of the run). pcgrad: project conflicting gradients of tasks on each other (arXiv 2001.06782).
    time_shift: draws training times from noisier parts (above 1) of the schedule (`Diffusion.times`); 1: uniform ones.

    PCGrad keeps a gradient per task: T times the trained numbers in memory, and a backward pass per task.
    """

    def __init__(
        self,
        weighting: Weighting,
        weights: Mapping[str, float] | None = None,
        pcgrad: bool = False,
        time_shift: float = 1.0,
    ) -> None:
        super().__init__()
        if not 0 < time_shift < float("inf"):
            raise ValueError(f"balancing.time_shift={time_shift}: expected a positive, finite number")
        self.time_shift = time_shift
        self.weighting, self.weights, self.pcgrad = weighting, dict(weights or {}), pcgrad
        for name, value in self.weights.items():
            if not 0 <= value < float("inf"):
                raise ValueError(f"balancing.weights.{name}={value}: expected a finite number of at least 0")

    def factors(self, tasks: Sequence[str]) -> Tensor:
        """Return the factors of the tasks' losses, (T,)."""
        for name in self.weights:
            if name not in tasks:
                raise ValueError(f"balancing.weights.{name}: expected one of {', '.join(tasks)}")
        return torch.tensor([float(self.weights.get(name, 1.0)) for name in tasks])


def task_gradients(means: Tensor, scale: Tensor, parameters: Sequence[nn.Parameter]) -> list[list[Tensor | None]]:
    """Compute the gradients of every task's mean loss times its scale (T,): a list over the parameters for each.

    None where a task does not reach a parameter. The graph of `means` is freed with the last task.
    """
    last = len(means) - 1
    return [
        list(torch.autograd.grad(mean, parameters, factor, retain_graph=k < last, allow_unused=True))
        for k, (mean, factor) in enumerate(zip(means.unbind(), scale.unbind(), strict=True))
    ]


def list_grams(per_task: Sequence[Sequence[Tensor | None]]) -> list[Tensor]:
    """Compute the inner products of the tasks' gradients by each parameter, (T, T) float64 of each."""
    grams = []
    for column in zip(*per_task, strict=True):
        gram = torch.zeros(len(per_task), len(per_task), dtype=torch.float64)
        reached = [(k, to_double(g.flatten())) for k, g in enumerate(column) if g is not None]
        if reached:
            rows, flat = [k for k, _ in reached], torch.stack([g for _, g in reached])
            gram[torch.tensor(rows)[:, None], rows] = (flat @ flat.T).cpu()
        grams.append(gram)
    return grams


def gram_matrix(per_task: Sequence[Sequence[Tensor | None]]) -> Tensor:
    """Compute the inner products of the tasks' gradients, (T, T) float64."""
    return sum(list_grams(per_task), torch.zeros(len(per_task), len(per_task), dtype=torch.float64))


def name_layer(parameter: str) -> str:
    """The layer that a parameter is a part of: an attention or feed-forward layer, a residual block, or a module of the
    network by itself."""
    name = parameter.rpartition("denoiser.")[2]
    found = re.match(r"(.*?(?:transformer_blocks\.\d+\.\w+|resnets\.\d+|samplers\.\d+))(?:\.|$)", name)
    return found[1] if found else name.split(".")[0]


def measure_layers(names: Sequence[str], grams: Sequence[Tensor]) -> dict[str, float]:
    """The mean cosine between two tasks' gradients by each layer that at least two tasks reach.

    names: of the parameters that `grams` (T, T) belong to.
    """
    sums: dict[str, Tensor] = {}
    for name, gram in zip(names, grams, strict=True):
        layer = name_layer(name)
        sums[layer] = sums[layer] + gram if layer in sums else gram
    number = len(grams[0]) if grams else 0
    pairs = torch.triu_indices(number, number, offset=1)
    found = {layer: cosine_matrix(gram)[pairs[0], pairs[1]].nanmean() for layer, gram in sums.items()}
    return {layer: float(cosine) for layer, cosine in found.items() if cosine.isfinite()}


def cosine_matrix(gram: Tensor) -> Tensor:
    """Compute the cosines between the tasks' gradients, (T, T); NaN for a task without a gradient."""
    length = gram.diagonal().sqrt()
    return gram / (length[:, None] * length[None, :])


def project_conflicts(gram: Tensor, key: tuple[int | str, ...]) -> Tensor:
    """PCGrad as weights of the tasks' gradients, (T,): the sum of the projected gradients is sum_k weight_k g_k.

    Algorithm 1 of arXiv 2001.06782: each g_i, against the others in random order, loses its component along any
    (original) g_j that it conflicts with. Every projected gradient stays a combination of the g_k, so their inner
    products `gram` (T, T) are all that is needed. key: draws the orders.
    """
    number, rng = len(gram), numpy_rng(*key)
    combined = torch.eye(number, dtype=gram.dtype)  # row i: coefficients of the i-th projected gradient
    for i in range(number):
        for j in rng.permutation([j for j in range(number) if j != i]).tolist():
            conflict = combined[i] @ gram[:, j]
            if conflict < 0:
                combined[i, j] -= conflict / gram[j, j]
    return combined.sum(0)


def backward_without_conflicts(
    loss: Tensor, means: Tensor, parameters: Sequence[nn.Parameter], key: tuple[int | str, ...]
) -> tuple[Tensor, list[Tensor]]:
    """PCGrad in place of `loss.backward()`, where the loss is a function of the tasks' means (T,).

    Adds to the parameters' gradients; those of tasks are averaged over processes first. Returns the inner products of
    these, (T, T), and their parts by each parameter.
    """
    (scale,) = torch.autograd.grad(loss, means, retain_graph=True)  # what accumulation and mixed precision multiply by
    per_task = task_gradients(means, scale, parameters)
    if distributed.is_initialized():
        for gradient in (g for row in per_task for g in row if g is not None):
            distributed.all_reduce(gradient.div_(distributed.get_world_size()))
    grams = list_grams(per_task)
    gram = sum(grams, torch.zeros_like(grams[0]))
    weights = project_conflicts(gram, key).tolist()
    for parameter, column in zip(parameters, zip(*per_task, strict=True), strict=True):
        for weight, gradient in zip(weights, column, strict=True):
            if gradient is not None:
                total = weight * gradient
                parameter.grad = total if parameter.grad is None else parameter.grad + total
    return gram, grams
