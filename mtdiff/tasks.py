"""The tasks: how a record of a data set turns into an example, and what judges the answer.

All tasks fill the same fields of `Example`, so nothing else in the program branches on a task. A new task is one class
here (or in the user's own package) and a line of YAML with its dotted name; constructor arguments are its options.

Letters: H W picture. Values in [-1, 1], masks in {0, 1}.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtdiff.data.degradations import Bicubic, Picture, RealESRGAN
from mtdiff.data.masks import random_hole
from mtdiff.data.source import Need
from mtdiff.types import Example, Record

Degradation = Literal["realesrgan", "bicubic"]


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
        target = signed(record.image)
        mask = torch.ones_like(target[:1])
        source = torch.zeros_like(target)
        return Example(target, source, mask, record.caption, task_id, record.key, target_caption=record.caption)


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
        return instructed(record, task_id)


@dataclass(frozen=True)
class SuperResolution(Task):
    """Restore a picture from a degraded one that was shrunk by `scale`; no prompt, as in the MTU paper.

    The source is the small picture enlarged again (bicubic), so it has the target's size and lies on its grid.
    degradation: `realesrgan` (the paper's choice; blur, noise, JPEG, twice) or `bicubic` (shrinking alone).
    The picture's sides must be multiples of `scale` (2 or 4; the paper's is 2).
    """

    scale: int = 4
    degradation: Degradation = "realesrgan"
    name: str = "super_resolution"
    metrics: ClassVar[tuple[Metric, ...]] = (LPIPS, PSNR, SSIM)

    def __post_init__(self) -> None:
        if self.scale not in (2, 4):
            raise ValueError(f"scale={self.scale!r}: expected 2 or 4")
        if self.degradation not in get_args(Degradation):
            raise ValueError(f"degradation={self.degradation!r}: expected one of {', '.join(get_args(Degradation))}")

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"picture": 1.0}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        picture = record.image.permute(1, 2, 0).numpy().astype(np.float32) / np.float32(255)  # (H, W, 3)
        degrade = RealESRGAN(self.scale) if self.degradation == "realesrgan" else Bicubic(self.scale)
        source = enlarged(degrade(picture, rng), picture.shape[:2])
        target = signed(record.image)
        mask = torch.zeros_like(target[:1])
        return Example(target, source, mask, "", task_id, record.key, target_caption=record.caption)


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
            return instructed(record, task_id)
        target = signed(record.image)
        _, height, width = target.shape
        mask = torch.from_numpy(random_hole(height, width, rng)).float()[None]  # (1, H, W)
        source = target * (1 - mask)
        return Example(target, source, mask, record.caption, task_id, record.key, target_caption=record.caption)


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


def enlarged(picture: Picture, size: tuple[int, ...]) -> Tensor:
    """(h, w, 3) in [0, 1] -> (3, H, W) float32 in [-1, 1], bicubic (a = -0.5, as `degradations.Bicubic`)."""
    height, width = size
    channels = (Image.fromarray(picture[..., c]) for c in range(3))
    bigger = np.stack([np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels])
    return torch.from_numpy(np.clip(bigger * 2 - 1, -1, 1))
