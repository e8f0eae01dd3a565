"""Go on with a picture beyond its borders."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import ClassVar

import numpy as np
import torch

from mtdiff.tasks.base import FIDELITY, Metric, Task, restore_example, to_signed
from mtdiff.tasks.masks import Mask
from mtdiff.types import Example, Need, Record


@dataclass(frozen=True)
class Outpaint(Task):
    """Draw what lies around a window of the picture; the prompt is the caption, the source is 0 around the window.

    area: least and greatest share of the picture that is unknown, uniform between them. The window is a rectangle of
    any place and of moderate proportions, so the unknown border lies on one to four sides.
    """

    area: tuple[float, float] = (0.25, 0.5)
    name: str = "outpaint"
    metrics: ClassVar[tuple[Metric, ...]] = FIDELITY
    references: ClassVar[tuple[str, ...]] = ("edges",)

    def __post_init__(self) -> None:
        if len(self.area) != 2 or not 0 < self.area[0] <= self.area[1] < 1:
            raise ValueError(f"area={list(self.area)!r}: expected two ascending shares above 0 and below 1")

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"picture": 1.0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        height, width = record.image.shape[-2:]
        mask = torch.from_numpy(random_border(height, width, self.area, rng)).float()[None]  # (1, H, W)
        return restore_example(record, to_signed(record.image), task_id, mask, record.caption)


def random_border(height: int, width: int, area: tuple[float, float], rng: np.random.Generator) -> Mask:
    """(H, W) uint8, 0 in a window and 1 around it, where 1 takes a share of the picture drawn from `area`.

    A window that keeps a share k has k^u of the rows and k^(1-u) of the columns, u uniform in [1/4, 3/4].
    """
    pixels = height * width
    least, most = ((1 - share) * pixels for share in reversed(area))  # of the window
    kept = rng.uniform(least, most)
    rows = min(max(round((kept / pixels) ** rng.uniform(0.25, 0.75) * height), 1), height)
    columns = min(max(round(kept / rows), ceil(least / rows)), floor(most / rows))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    mask = np.ones((height, width), np.uint8)
    mask[top : top + rows, left : left + columns] = 0
    return mask
