"""Restore a picture from a small one.

Letters: H W picture. Values in [-1, 1], masks in {0, 1}.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtdiff.tasks.base import LPIPS, PSNR, SSIM, Metric, Task, to_signed
from mtdiff.tasks.corruptions import Picture
from mtdiff.tasks.degradations import Bicubic, RealESRGAN
from mtdiff.types import Example, Need, Record

Degradation = Literal["realesrgan", "bicubic"]


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
        source = enlarge(degrade(picture, rng), picture.shape[:2])
        target = to_signed(record.image)
        mask = torch.zeros_like(target[:1])
        return Example(target, source, mask, "", task_id, record.key, target_caption=record.caption)


def enlarge(picture: Picture, size: tuple[int, ...]) -> Tensor:
    """(h, w, 3) in [0, 1] -> (3, H, W) float32 in [-1, 1], bicubic (a = -0.5, as `degradations.Bicubic`)."""
    height, width = size
    channels = (Image.fromarray(picture[..., c]) for c in range(3))
    bigger = np.stack([np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels])
    return torch.from_numpy(np.clip(bigger * 2 - 1, -1, 1))
