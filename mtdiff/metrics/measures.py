"""What a metric computes: one number per example, or one of the whole set. Each carries the true name of its rows.

Pictures are (n, 3, H, W) in [-1, 1]; scores are (n,), NaN where a metric does not apply to an example.

Letters: B batch, n examples of one task, D width of a feature vector.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtdiff.metrics.distances import Matrix, frechet, kid, kid_resampled, paired_kid
from mtdiff.metrics.embedding import (
    MeasuringClip,
    clip_score,
    directional_image_similarity,
    directional_similarity,
)
from mtdiff.types import Batch, Gallery, Split

Index = NDArray[np.int64]
Galleries = Callable[[Split, int], Gallery]
"""A split and a number -> so many pictures of one thing each (`Source.gallery`)."""


@dataclass(frozen=True)
class Parts:
    """Runs a network over a few rows at a time on one device, in full precision whatever the caller does."""

    device: torch.device
    size: int = 64

    @torch.no_grad()
    def __call__(self, f: Callable[..., Tensor], *columns: Tensor | Sequence[str]) -> Tensor:
        """Apply f to a part of the columns at a time, and join what it returns on the CPU."""
        starts = range(0, len(columns[0]), self.size)
        with torch.autocast(self.device.type, enabled=False):
            return torch.cat([f(*(self._part(c, i) for c in columns)).cpu() for i in starts])

    def _part(self, column: Tensor | Sequence[str], start: int) -> Tensor | Sequence[str]:
        part = column[start : start + self.size]
        return part.to(self.device) if isinstance(part, Tensor) else part


class Measure(nn.Module, ABC):
    """What computes a metric. name: what rows call it; it says which weights were used.

    fallible: whether the truth itself may miss the best value, so that its own value stands beside a model's.
    """

    fallible: ClassVar[bool] = False

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def look_at(self, galleries: Galleries) -> None:
        """Remember where galleries of the data come from, for what compares with them or learns from them."""
        return

    def describe(self) -> dict[str, Any]:
        """What there is to tell beside the rows: small, plain JSON; nothing until it was used."""
        return {}


# One number per example


class PerExample(Measure):
    @abstractmethod
    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        """Return one number per example, (n,) on the CPU."""


class Pairwise(PerExample):
    """Applies `f(outputs, targets) -> (B,)`, such as PSNR."""

    def __init__(self, name: str, f: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(name)
        self.f = f

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        return parts(self.f, outputs, batch.target)


class Perceptual(PerExample):
    """LPIPS (Zhang et al., arXiv 1801.03924) by a network of the `lpips` package."""

    def __init__(self, name: str, net: nn.Module) -> None:
        super().__init__(name)
        self.net = net

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        def distance(a: Tensor, b: Tensor) -> Tensor:
            return self.net(a.float().clamp(-1, 1), b.float().clamp(-1, 1)).flatten()

        return parts(distance, outputs, batch.target)


class ClipMeasure(PerExample):
    """What compares embeddings of CLIP; several such measures may share one."""

    def __init__(self, name: str, clip: MeasuringClip) -> None:
        super().__init__(name)
        self.clip = clip


class CaptionSimilarity(ClipMeasure):
    """Compares with the target's caption, or without one with the prompt of an example that has no source picture."""

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        sourceless = batch.mask.bool().flatten(1).all(1).tolist()
        columns = zip(batch.target_caption, batch.prompt, sourceless, strict=True)
        texts = [caption or (prompt if alone else "") for caption, prompt, alone in columns]
        scores = clip_score(parts(self.clip.images, outputs), parts(self.clip.texts, texts))
        return _blank_where([bool(t) for t in texts], scores)


class Directional(ClipMeasure):
    """Applies where the source is a whole picture and both captions are there and differ."""

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        pictures = (parts(self.clip.images, x) for x in (batch.source, outputs))
        texts = (parts(self.clip.texts, x) for x in (batch.source_caption, batch.target_caption))
        scores = directional_similarity(*pictures, *texts)
        columns = zip(_whole_source(batch), batch.source_caption, batch.target_caption, strict=True)
        return _blank_where([whole and "" != a != b != "" for whole, a, b in columns], scores)


class DirectionalImage(ClipMeasure):
    """Applies where the source is a whole picture that the truth differs from."""

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        embedded = (parts(self.clip.images, x) for x in (batch.source, batch.target, outputs))
        changed = (batch.target - batch.source).abs().flatten(1).amax(1) > 1 / 255
        applies = [a and b for a, b in zip(_whole_source(batch), changed.tolist(), strict=True)]
        return _blank_where(applies, directional_image_similarity(*embedded))


def _whole_source(batch: Batch) -> list[bool]:
    return (~batch.mask.bool().flatten(1).any(1)).tolist()


def _blank_where(applies: Sequence[bool], scores: Tensor) -> Tensor:
    return torch.where(torch.tensor(applies), scores.double(), math.nan)


# One number of a set


@dataclass(frozen=True)
class Distance:
    """value: of the examples as they are. resampled: maps drawn indices to a value, for the spread. least: a bound."""

    value: float
    resampled: Callable[[Index], float]
    least: float = -math.inf


class PerSet(Measure):
    """Compares sets by their features, pictures (B, 3, H, W) in [-1, 1] -> (B, D), which measures may share."""

    def __init__(self, name: str, features: nn.Module) -> None:
        super().__init__(name)
        self.features = features

    @abstractmethod
    def distance(self, a: Matrix, b: Matrix, rng: np.random.Generator) -> Distance:
        """Between features of outputs and of targets, (n, D) each, in the same order of examples."""


class Frechet(PerSet):
    """Resamples examples as pairs: an output travels with its target."""

    def distance(self, a: Matrix, b: Matrix, rng: np.random.Generator) -> Distance:
        return Distance(frechet(a, b), lambda index: frechet(a[index], b[index]), least=0.0)


class Kernel(PerSet):
    """estimate: `paired` leaves an example's own output out (unbiased here); `clean_fid` is that package's number."""

    def __init__(self, name: str, features: nn.Module, estimate: Literal["paired", "clean_fid"]) -> None:
        super().__init__(name, features)
        self.estimate = estimate

    def distance(self, a: Matrix, b: Matrix, rng: np.random.Generator) -> Distance:
        n = len(a)
        if self.estimate == "clean_fid":
            spread = kid_resampled(a, b)
            return Distance(kid(a, b, rng), lambda index: spread(np.bincount(index, minlength=n)))
        paired = paired_kid(a, b)
        return Distance(paired(np.ones(n)), lambda index: paired(np.bincount(index, minlength=n)))
