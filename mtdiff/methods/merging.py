"""Rules by which what several trainings have changed becomes one change, applied without further training.

average          s / n * sum_i d_i
task_arithmetic  s * sum_i d_i (Ilharco et al., arXiv 2212.04089)
ties             trim each d_i to its largest values, elect a sign, average what agrees, times s (arXiv 2306.01708)
dare             drop values of each d_i at random, rescale the rest, s * sum_i d_i (arXiv 2311.03099)

d_i is what training i has changed of a weight, s the scale, n the number of trainings; by `peft.utils.merge_utils`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from peft.utils import merge_utils
from torch import Tensor

from mtdiff.rng import number

Name = Literal["average", "task_arithmetic", "ties", "dare"]


class CannotMerge(ValueError):
    """What a method trains means nothing beside what another training of it did; the message says why in one line."""


@dataclass(frozen=True)
class Rule:
    """scale: s. density: the share of values that ties and dare keep. seed: of what dare drops."""

    name: Name
    scale: float = 1.0
    density: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in get_args(Name):
            raise ValueError(f"rule={self.name}: expected one of {', '.join(get_args(Name))}")
        if not 0 < self.density <= 1:
            raise ValueError(f"density={self.density}: expected a share above 0 and of at most 1")
        if not 0 <= self.scale < float("inf"):
            raise ValueError(f"scale={self.scale}: expected a finite number of at least 0, or validation")

    def weights(self, parts: int) -> list[float]:
        """Of each training in the sum."""
        return [self.scale / parts if self.name == "average" else self.scale] * parts

    def combine(self, changes: Sequence[Tensor], key: str) -> Tensor:
        """One change from several of the same shape. key: names the weight, for what is dropped at random."""
        weights = torch.tensor(self.weights(len(changes)), dtype=changes[0].dtype)
        if self.name == "ties":
            return merge_utils.ties(list(changes), weights, self.density)
        if self.name != "dare" or self.density == 1:
            return merge_utils.task_arithmetic(list(changes), weights)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number(self.seed, "dare", key) >> 1)
            return merge_utils.dare_linear(list(changes), weights, self.density)

    @torch.no_grad()
    def merge(self, start: Tensor, trained: Sequence[Tensor], key: str) -> Tensor:
        """A weight with the merged change. In float64, where start + (trained - start) is trained to the last bit."""
        changes = [weight.double() - start.double() for weight in trained]
        return (start.double() + self.combine(changes, key)).to(start.dtype)
