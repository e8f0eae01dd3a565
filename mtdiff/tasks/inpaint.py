"""Fill in what is missing from a picture, or take something out of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mtdiff.tasks.base import LPIPS, PSNR, SSIM, Metric, Task, edit_example, to_signed
from mtdiff.tasks.masks import random_hole
from mtdiff.types import Example, Need, Record


@dataclass(frozen=True)
class Inpaint(Task):
    """Fill in what is not there: a share `removal` of records by instruction, the rest in holes.

    Removal, the MTU paper's only kind (after GQA-Inpaint): a whole picture, told what to take away; the mask is empty.
    Holes (boxes and brush strokes over 10 to 50 % of the picture): the source is 0 in the hole, the prompt the caption.
    directional_image, the paper's metric, compares target with source and so holds for removals
    alone, which are the examples whose mask is empty.
    """

    removal: float = 0.5
    name: str = "inpaint"
    metrics: ClassVar[tuple[Metric, ...]] = (
        LPIPS,
        PSNR,
        SSIM,
        Metric("directional_image", "higher"),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.removal <= 1:
            raise ValueError(f"removal={self.removal!r}: expected a share in [0, 1]")

    @property
    def needs(self) -> Mapping[Need, float]:
        shares: dict[Need, float] = {"removal": self.removal, "picture": 1 - self.removal}
        return {need: share for need, share in shares.items() if share > 0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        if record.edited is not None:
            return edit_example(record, task_id)
        target = to_signed(record.image)
        _, height, width = target.shape
        mask = torch.from_numpy(random_hole(height, width, rng)).float()[None]  # (1, H, W)
        source = target * (1 - mask)
        return Example(target, source, mask, record.caption, task_id, record.key, target_caption=record.caption)
