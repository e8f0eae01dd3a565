"""The tasks: how a record of a data set turns into an example, and what judges the answer.

All tasks fill the same fields of `Example`, so nothing else in the program branches on a task. A new task is one class
beside this file (or in the user's own package) and a line of YAML with its dotted name; constructor arguments are its
options.

Letters: H W picture. Values in [-1, 1], masks in {0, 1}.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from mtdiff.types import Example, Need, Record


@dataclass(frozen=True)
class Metric:
    """What judges a task, by its name in `mtdiff.metrics.judges`, and which way is better.

    name: what is judged; which network does it, and what rows are called then, is the choice `metrics=`.
    """

    name: str
    direction: Literal["lower", "higher"]


LPIPS = Metric("perceptual", "lower")
PSNR = Metric("psnr", "higher")
SSIM = Metric("ssim", "higher")


class Task(ABC):
    """name: unique in a run; it seeds the task's examples, so renaming a task redraws them.

    metrics: one value per example or per list of examples; the table of a run shows them in this order.
    """

    name: str
    metrics: ClassVar[tuple[Metric, ...]]

    @property
    @abstractmethod
    def needs(self) -> Mapping[Need, float]:
        """What the task's records are, with the share of each kind; shares are positive and sum to 1."""

    @abstractmethod
    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        """One example. Everything random comes from `rng`; `task_id` is the index in the run's list of tasks."""


def instructed(record: Record, task_id: int) -> Example:
    """The edited picture from the whole original and the instruction."""
    if record.edited is None or record.instruction is None or record.edited_caption is None:
        raise ValueError(f"record {record.key!r} has no edited picture with its instruction and caption")
    source, target = signed(record.image), signed(record.edited)
    mask = torch.zeros_like(source[:1])
    captions = (record.caption, record.edited_caption)
    return Example(target, source, mask, record.instruction, task_id, record.key, *captions)


def signed(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> float32 in [-1, 1]."""
    return image.float() / 127.5 - 1
