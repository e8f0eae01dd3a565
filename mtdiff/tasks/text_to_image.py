"""Draw what a caption says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from mtdiff.tasks.base import Metric, Task, to_signed
from mtdiff.types import Example, Need, Record


@dataclass(frozen=True)
class TextToImage(Task):
    """Draw what a caption says. No source image: zeros, all of it masked."""

    name: str = "text_to_image"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("frechet", "lower"),
        Metric("kernel", "lower"),
        Metric("caption", "higher"),
    )

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"caption": 1.0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        target = to_signed(record.image)
        mask = torch.ones_like(target[:1])
        source = torch.zeros_like(target)
        return Example(target, source, mask, record.caption, task_id, record.key, target_caption=record.caption)
