"""Restore a picture from a noisy one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from mtdiff.tasks.base import FIDELITY, Metric, Task, check_kinds, check_range, from_unit, restore_example, to_unit
from mtdiff.tasks.corruptions import Picture, gaussian_noise, jpeg, poisson_noise, quantise
from mtdiff.tasks.degradations import pick
from mtdiff.types import Example, Need, Record

Noise = Literal["gaussian", "poisson", "jpeg"]


@dataclass(frozen=True)
class Denoise(Task):
    """Restore a noisy picture; no prompt. Kinds of noise are equally likely, strengths uniform in their limits.

    kinds: `gaussian` (white), `poisson` (of few photons) or `jpeg` (strong compression).
    sigma: of the Gaussian, in 8-bit levels. scale: of the shot noise, whose deviation is scale * sqrt(value / 256).
    quality: of JPEG, 1 to 100.
    """

    kinds: Sequence[Noise] = ("gaussian", "poisson", "jpeg")
    sigma: tuple[float, float] = (10.0, 50.0)
    scale: tuple[float, float] = (1.0, 4.0)
    quality: tuple[int, int] = (5, 40)
    name: str = "denoise"
    metrics: ClassVar[tuple[Metric, ...]] = FIDELITY
    references: ClassVar[tuple[str, ...]] = ("bilateral",)

    def __post_init__(self) -> None:
        check_kinds(self.kinds, get_args(Noise))
        check_range("sigma", self.sigma, 0, 255)
        check_range("scale", self.scale, 0, 255)
        check_range("quality", self.quality, 1, 100)

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"picture": 1.0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        noisy = quantise(self.add_noise(to_unit(record.image), rng))
        return restore_example(record, from_unit(noisy), task_id)

    def add_noise(self, picture: Picture, rng: np.random.Generator) -> Picture:
        """A picture (H, W, 3) in [0, 1] with noise of one kind."""
        kind = self.kinds[pick([1.0] * len(self.kinds), rng)]
        if kind == "gaussian":
            return gaussian_noise(picture, rng.uniform(*self.sigma), False, rng)
        if kind == "poisson":
            return poisson_noise(picture, rng.uniform(*self.scale), False, rng)
        return jpeg(picture, int(rng.integers(self.quality[0], self.quality[1] + 1)))
