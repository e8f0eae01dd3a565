"""Give a grey picture its colours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtdiff.tasks.base import LPIPS, PSNR, SSIM, Metric, Task, from_unit, restore_example, to_unit
from mtdiff.tasks.corruptions import LUMA
from mtdiff.types import Example, Need, Record


@dataclass(frozen=True)
class Colorize(Task):
    """Give a grey picture its colours. The source is the picture's luma (ITU-R BT.601), the same in all channels.

    captioned: the model reads the caption too, since grey does not tell every colour; without it there is no prompt.
    """

    captioned: bool = False
    name: str = "colorize"
    metrics: ClassVar[tuple[Metric, ...]] = (Metric("colour", "lower"), LPIPS, PSNR, SSIM)

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"picture": 1.0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        grey = np.clip(to_unit(record.image) @ LUMA, 0, 1)  # (H, W, 1)
        source = from_unit(np.repeat(grey, 3, axis=2))
        return restore_example(record, source, task_id, prompt=record.caption if self.captioned else "")
