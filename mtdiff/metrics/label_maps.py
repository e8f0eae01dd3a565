"""How well a drawn map shows the truth, once every pixel is taken for the nearest colour of the palette.

The palette is the colours that the truths of the set show, so a class that no test example has cannot be answered.

Letters: n examples of one task, K colours, H W picture.
"""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from mtdiff.metrics.measures import Parts, PerExample
from mtdiff.types import Batch

MOST = 256  # colours of a map


def read_bytes(pictures: Tensor) -> Tensor:
    """(n, 3, H, W) in [-1, 1] -> (n, H W, 3) levels from 0 to 255."""
    return ((pictures.cpu().float().clamp(-1, 1) + 1) * 127.5).flatten(2).mT


def find_palette(targets: Tensor) -> Tensor:
    """The colours (K, 3) of maps (n, 3, H, W) in [-1, 1]; ValueError where there are too many for a map."""
    palette = read_bytes(targets).round().flatten(0, 1).unique(dim=0)
    if len(palette) > MOST:
        raise ValueError(f"the truths have {len(palette)} colours; expected maps of at most {MOST}")
    return palette


def decode(pictures: Tensor, palette: Tensor) -> Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] -> the number of the nearest of the colours (K, 3) at each pixel, (n, H W)."""
    return torch.stack([torch.cdist(rows, palette).argmin(1) for rows in read_bytes(pictures)])


class MapMeasure(PerExample):
    """Compares what is seen at each pixel of an answer and of its truth."""

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        palette = find_palette(batch.target)
        return self.compare(decode(outputs, palette), decode(batch.target, palette), len(palette))

    @abstractmethod
    def compare(self, answer: Tensor, truth: Tensor, classes: int) -> Tensor:
        """Classes (n, H W) of both -> (n,)."""


class MeanIoU(MapMeasure):
    """Intersection over union, a mean over the classes that an example's answer or truth shows."""

    def compare(self, answer: Tensor, truth: Tensor, classes: int) -> Tensor:
        a, b = (nn.functional.one_hot(x, classes).bool() for x in (answer, truth))  # (n, H W, K)
        both, either = (a & b).sum(1).double(), (a | b).sum(1).double()  # (n, K)
        return (both / either.clamp_min(1)).sum(1) / (either > 0).sum(1)


class PixelAccuracy(MapMeasure):
    """The share of pixels that are right."""

    def compare(self, answer: Tensor, truth: Tensor, classes: int) -> Tensor:
        return (answer == truth).double().mean(1)
