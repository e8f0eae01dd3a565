"""Picture quality: scores per picture, and the judge that turns one task's outputs into rows with intervals.

All pictures are (B, 3, H, W) in [-1, 1]. PSNR and SSIM see them in [0, 1] after clipping, in float64.

psnr        dB, data range 1; identical pictures give 100
ssim        Wang et al. 2004: Gaussian window of 11 px, sigma 1.5, population covariance (see `ssim`)
lpips_alex  Zhang et al., arXiv 1801.03924, the `lpips` package's heads on float16-stored AlexNet convolutions

Letters: B batch, n examples of one task, D width of a feature vector.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtdiff.metrics.alexnet import AlexNetEmbedding, lpips_alex
from mtdiff.metrics.bootstrap import Interval, mean_interval, set_interval
from mtdiff.metrics.distances import frechet, paired_kid
from mtdiff.metrics.embedding import (
    MeasuringClip,
    clip_score,
    directional_image_similarity,
    directional_similarity,
    shipped_clip,
)
from mtdiff.results import Direction, Row
from mtdiff.rng import numpy_rng
from mtdiff.types import Batch

RangeMistake = Literal["raise", "warn", "ignore"]
TOLERANCE = 1e-3  # how far outside [-1, 1] rounding may carry a picture
MAX_PSNR = 100.0
MIN_SET = 10  # examples below which a distance between sets says nothing
SET_RESAMPLES = 100  # for Fréchet and kernel distances, where each resample is a whole evaluation
_LEAST = {"fd_alexnet": 0.0, "kid_alexnet": -math.inf}  # a Fréchet distance is never negative
_CHUNK = 64  # pictures at once through a network


class RangeWarning(UserWarning):
    """Pictures that should lie in [-1, 1] look as if they were in [0, 1]."""


def check_pictures(images: Tensor, name: str, range_mistake: RangeMistake = "warn") -> Tensor:
    """`images` themselves, if they can be pictures in [-1, 1]; else a ValueError.

    Pictures that never go below 0 are possible, yet almost always [0, 1] by mistake: what then follows is an option.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not len(images):
        raise ValueError(f"{name}: expected float pictures (B, 3, H, W), got {tuple(images.shape)} {images.dtype}")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails too
        raise ValueError(f"{name}: expected pictures in [-1, 1], got [{low:.4g}, {high:.4g}]")
    if low >= 0 and high > low and range_mistake != "ignore":
        message = f"{name}: none of {len(images)} pictures goes below 0; expected [-1, 1], is this [0, 1]?"
        if range_mistake == "raise":
            raise ValueError(message)
        warnings.warn(message, RangeWarning, stacklevel=2)
    return images


def _unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1] in float64, clipped."""
    return (images.double().clamp(-1, 1) + 1) / 2


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> dB, (B,)."""
    mse = (_unit(a) - _unit(b)).pow(2).mean((1, 2, 3))
    return -10 * mse.clamp_min(10 ** (-MAX_PSNR / 10)).log10()


def _blur(x: Tensor, sigma: float = 1.5, radius: int = 5) -> Tensor:
    """Gaussian window without padding: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    position = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    window = torch.softmax(-position.pow(2) / (2 * sigma**2), 0)  # (11,), adds up to 1
    channels = x.shape[1]
    down = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return nn.functional.conv2d(nn.functional.conv2d(x, down, groups=channels), across, groups=channels)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1], at least 11 px a side -> (B,), mean over colours.

    Equals scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1, channel_axis=...)`. torchmetrics 1.9 differs: 0.3561 against 0.3580 on scikit-image's own check.
    """
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"ssim: expected at least 11 px a side, got {tuple(a.shape[-2:])}")
    x, y = _unit(a), _unit(b)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))


class Judged(Protocol):
    """What the judge reads of a task's metric."""

    @property
    def name(self) -> str: ...
    @property
    def direction(self) -> Direction: ...


class Judge:
    """LPIPS, AlexNet and the measuring CLIP, built once; judges pictures of any size and origin.

    clip: folder of the measuring CLIP, the shipped one by default; where that is missing its metrics are missing too.
    range_mistake: what follows when outputs look like [0, 1] instead of [-1, 1].
    """

    per_example = (
        "psnr",
        "ssim",
        "lpips_alex",
        "clip_score_embedded",
        "directional_similarity_embedded",
        "directional_image_similarity_embedded",
    )
    per_set = ("fd_alexnet", "kid_alexnet")

    def __init__(
        self, device: torch.device | str = "cpu", clip: Path | None = None, *, range_mistake: RangeMistake = "warn"
    ) -> None:
        self.device, self.range_mistake = torch.device(device), range_mistake
        self.lpips, self.alexnet = lpips_alex().to(self.device), AlexNetEmbedding().to(self.device)
        folder = clip or shipped_clip()
        self.clip = MeasuringClip(folder).to(self.device) if clip or folder.is_dir() else None

    # Scores

    def scores(self, metric: str, outputs: Tensor, batch: Batch) -> Tensor:
        """One number per example, (n,) float64 on the CPU; NaN where the metric does not apply to the example."""
        if metric not in self._functions:
            raise ValueError(f"metric {metric!r}: expected one of {', '.join(self.per_example)}")
        if metric.endswith("_embedded") and self.clip is None:
            raise ValueError(f"metric {metric!r}: no measuring CLIP in {shipped_clip().name}; pass clip=<folder>")
        if outputs.shape != batch.target.shape:
            raise ValueError(
                f"outputs: expected {tuple(batch.target.shape)} as the targets, got {tuple(outputs.shape)}"
            )
        check_pictures(outputs, "outputs", self.range_mistake)
        check_pictures(batch.target, "targets", self.range_mistake)
        return self._functions[metric](outputs, batch).double().cpu()

    @cached_property
    def _functions(self) -> dict[str, Callable[[Tensor, Batch], Tensor]]:
        functions = (
            lambda outputs, batch: self._chunked(psnr, outputs, batch.target),
            lambda outputs, batch: self._chunked(ssim, outputs, batch.target),
            self._lpips,
            self._clip_score,
            self._directional,
            self._directional_image,
        )
        return dict(zip(self.per_example, functions, strict=True))

    @torch.no_grad()
    def _chunked(self, f: Callable[..., Tensor], *images: Tensor) -> Tensor:
        """f over parts of the batch on the judge's device, in full precision whatever the caller does; on the CPU."""
        parts = zip(*(x.split(_CHUNK) for x in images), strict=True)
        with torch.autocast(self.device.type, enabled=False):
            return torch.cat([f(*(x.to(self.device) for x in part)).cpu() for part in parts])

    def _lpips(self, outputs: Tensor, batch: Batch) -> Tensor:
        def distance(a: Tensor, b: Tensor) -> Tensor:
            return self.lpips(a.float().clamp(-1, 1), b.float().clamp(-1, 1)).flatten()

        return self._chunked(distance, outputs, batch.target)

    def _clip_score(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Against the target's caption; without one, against the prompt of an example that has no source picture."""
        sourceless = batch.mask.bool().flatten(1).all(1).tolist()
        columns = zip(batch.target_caption, batch.prompt, sourceless, strict=True)
        texts = [caption or (prompt if alone else "") for caption, prompt, alone in columns]
        scores = clip_score(self._embed(outputs), self._embed_texts(texts))
        return _where([bool(t) for t in texts], scores)

    def _directional(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Applies where the source is a whole picture and both captions are there and differ."""
        texts = (self._embed_texts(batch.source_caption), self._embed_texts(batch.target_caption))
        scores = directional_similarity(self._embed(batch.source), self._embed(outputs), *texts)
        columns = zip(_whole_source(batch), batch.source_caption, batch.target_caption, strict=True)
        return _where([whole and "" != a != b != "" for whole, a, b in columns], scores)

    def _directional_image(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Applies where the source is a whole picture that the truth differs from."""
        embedded = (self._embed(x) for x in (batch.source, batch.target, outputs))
        changed = (batch.target - batch.source).abs().flatten(1).amax(1) > 1 / 255
        applies = [a and b for a, b in zip(_whole_source(batch), changed.tolist(), strict=True)]
        return _where(applies, directional_image_similarity(*embedded))

    def _embed(self, images: Tensor) -> Tensor:
        assert self.clip is not None
        return self._chunked(self.clip.images, images)

    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        assert self.clip is not None
        parts = [texts[i : i + _CHUNK] for i in range(0, len(texts), _CHUNK)]
        with torch.autocast(self.device.type, enabled=False):
            return torch.cat([self.clip.texts(part).cpu() for part in parts])

    # Rows

    def rows(
        self,
        task: str,
        metrics: Sequence[Judged],
        outputs: Tensor,
        batch: Batch,
        seed: int,
        model: str = "run",
    ) -> Iterator[Row]:
        """One row per metric, in order. outputs (n, 3, H, W) belong to the n examples of `batch`, all of one task.

        Means carry a percentile interval over examples (2000 resamples), Fréchet and kernel distances the re-centred
        one of `bootstrap.set_interval` (100 resamples). The same seed draws the same examples for every model.
        """
        broken = int((~outputs.isfinite()).flatten(1).any(1).sum())
        for metric in metrics:
            if metric.name not in self.per_example + self.per_set:
                allowed = ", ".join(self.per_example + self.per_set)
                raise ValueError(f"metric {metric.name!r} of task {task!r}: expected one of {allowed}")
            row = Row(task, metric.name, metric.direction, None, 0, None, None, model)
            rng = numpy_rng(seed, "interval", task, metric.name)
            if broken:
                yield replace(row, reason=f"{broken} of {len(outputs)} outputs are not finite")
            elif metric.name.endswith("_embedded") and self.clip is None:
                yield replace(row, reason="no measuring CLIP")
            elif metric.name in self.per_set:
                yield self._set_row(row, outputs, batch, rng)
            else:
                yield self._mean_row(row, outputs, batch, rng)

    def _mean_row(self, row: Row, outputs: Tensor, batch: Batch, rng: np.random.Generator) -> Row:
        scores = self.scores(row.metric, outputs, batch)
        scores = scores[~scores.isnan()]
        if not len(scores):
            return replace(row, reason="applies to none of the examples")
        return _filled(row, mean_interval(scores.numpy(), rng), len(scores))

    def _set_row(self, row: Row, outputs: Tensor, batch: Batch, rng: np.random.Generator) -> Row:
        check_pictures(outputs, "outputs", self.range_mistake)
        check_pictures(batch.target, "targets", self.range_mistake)
        n = len(outputs)
        if n < MIN_SET:
            return replace(row, reason=f"needs at least {MIN_SET} examples, got {n}")
        a, b = (self._chunked(self.alexnet, x.float()).double().numpy() for x in (outputs, batch.target))
        statistic = _set_statistic(row.metric, a, b)
        return _filled(row, set_interval(statistic, n, rng, resamples=SET_RESAMPLES, least=_LEAST[row.metric]), n)


def _set_statistic(metric: str, a: NDArray[np.float64], b: NDArray[np.float64]) -> Callable[[NDArray[np.int64]], float]:
    """The set metric as a function of drawn examples (indices): an output travels with its target."""
    if metric == "fd_alexnet":
        return lambda index: frechet(a[index], b[index])
    distance = paired_kid(a, b)
    return lambda index: distance(np.bincount(index, minlength=len(a)))


def _whole_source(batch: Batch) -> list[bool]:
    return (~batch.mask.bool().flatten(1).any(1)).tolist()


def _where(applies: Sequence[bool], scores: Tensor) -> Tensor:
    return torch.where(torch.tensor(applies), scores.double(), math.nan)


def _filled(row: Row, interval: Interval, n: int) -> Row:
    return replace(row, value=interval.value, n=n, low=interval.low, high=interval.high)
