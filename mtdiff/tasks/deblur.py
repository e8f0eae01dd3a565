"""Restore a picture from one that is out of focus or was moved while it was taken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, cos, pi, sin
from typing import ClassVar, Literal, get_args

import numpy as np

from mtdiff.tasks.base import FIDELITY, Metric, Task, check_kinds, check_range, from_unit, restore_example, to_unit
from mtdiff.tasks.corruptions import blur, quantise
from mtdiff.tasks.degradations import pick
from mtdiff.tasks.kernels import Kernel, gaussian_kernel, squared_distance
from mtdiff.types import Example, Need, Record

Blur = Literal["gaussian", "motion"]
FINE = 16
"""Steps in a pixel by which `motion_kernel` places a line."""


@dataclass(frozen=True)
class Deblur(Task):
    """Restore a blurred picture; no prompt. Kinds of blur are equally likely, lengths uniform in their limits.

    kinds: `gaussian` (round) or `motion` (along a straight line of any direction).
    sigma, length: limits of the Gaussian's sigma and of the line's length, as shares of the picture's shorter side.
    """

    kinds: Sequence[Blur] = ("gaussian", "motion")
    sigma: tuple[float, float] = (0.01, 0.03)
    length: tuple[float, float] = (0.06, 0.2)
    name: str = "deblur"
    metrics: ClassVar[tuple[Metric, ...]] = FIDELITY
    references: ClassVar[tuple[str, ...]] = ("wiener",)

    def __post_init__(self) -> None:
        check_kinds(self.kinds, get_args(Blur))
        check_range("sigma", self.sigma, 0, 0.25)
        check_range("length", self.length, 0, 0.5)

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"picture": 1.0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        picture = to_unit(record.image)
        blurred = quantise(blur(picture, self.draw_kernel(min(picture.shape[:2]), rng)))
        return restore_example(record, from_unit(blurred), task_id)

    def draw_kernel(self, side: int, rng: np.random.Generator) -> Kernel:
        """A kernel for a picture whose shorter side has so many pixels."""
        if self.kinds[pick([1.0] * len(self.kinds), rng)] == "motion":
            return motion_kernel(rng.uniform(*self.length) * side, rng.uniform(0, pi))
        sigma = max(rng.uniform(*self.sigma) * side, 1e-3)
        return gaussian_kernel(squared_distance(max(1, ceil(3 * sigma)), (sigma, sigma)))


def motion_kernel(length: float, angle: float) -> Kernel:
    """The trace (k, k), which sums to 1, of a point that moves `length` pixels at `angle` radians, at constant speed.

    Point-symmetric: the line lies about the centre. Its ends and slope are placed to a 16th of a pixel.
    """
    radius = max(1, ceil(length / 2))
    steps = np.linspace(-length / 2, length / 2, max(2, round(FINE * length)))
    x, y = radius + steps * cos(angle), radius + steps * sin(angle)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    for dx, dy in ((0, 0), (0, 1), (1, 0), (1, 1)):  # a point's weight goes to the four pixels around it
        column, row = np.floor(x).astype(int) + dx, np.floor(y).astype(int) + dy
        weight = np.clip(1 - abs(x - column), 0, 1) * np.clip(1 - abs(y - row), 0, 1)
        np.add.at(kernel, (np.minimum(row, 2 * radius), np.minimum(column, 2 * radius)), weight)
    return np.asarray(kernel / kernel.sum())
