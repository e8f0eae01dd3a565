"""Change a picture as an instruction says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from mtdiff.tasks.base import LPIPS, PSNR, SSIM, Metric, Task, edit_example
from mtdiff.types import Example, Need, Record


@dataclass(frozen=True)
class Edit(Task):
    """Change a picture as an instruction says; both captions are kept for the metrics."""

    name: str = "edit"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("directional", "higher"),
        LPIPS,
        PSNR,
        SSIM,
    )

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"edit": 1.0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        return edit_example(record, task_id)
