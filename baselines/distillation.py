"""A lighter network is taught by the one that it was made from: results of both, side by side (BK-SDM, 2305.15798).

Letters: B batch, C latent channels, h w latent size.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone
from mtdiff.methods.teaching import Teaching
from mtdiff.types import Condition


class Tap:
    """Keeps what a module gave last, until it is taken. A copy of it keeps nothing yet."""

    def __init__(self) -> None:
        self.value: Tensor | None = None

    def __call__(self, module: nn.Module, args: Any, out: Any) -> None:
        """A forward hook. Of a UNet's way down the picture comes first, of a joint block last."""
        self.value = out if isinstance(out, Tensor) else out[-1] if is_joint(out) else out[0]

    def __deepcopy__(self, memo: Any) -> "Tap":
        return Tap()

    def take(self) -> Tensor:
        assert self.value is not None, "the module was not called"
        found, self.value = self.value, None
        return found


def is_joint(out: Any) -> bool:
    return isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], Tensor)


class Teacher:
    """A frozen network beside the one that it teaches; no part of that one's parameters or state.

    pairs: names of the student's stages, and of the teacher's that each shall match.
    """

    def __init__(self, teaching: Teaching, student: Backbone, pairs: Mapping[str, str]) -> None:
        self.base, self._predict = teaching.backbone.eval().requires_grad_(False), teaching.predict
        own, others = student.stages(), self.base.stages()
        self.student, self.teacher = (
            tap_all([own[name] for name in pairs]),
            tap_all([others[name] for name in pairs.values()]),
        )
        (self.prediction,) = tap_all([student.denoiser])

    @torch.no_grad()
    def predict(self, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """noisy (B, C, h, w), t (B,) -> (B, C, h, w). An untouched base reads no source."""
        if next(self.base.denoiser.parameters()).device != noisy.device:
            self.base.denoiser.to(noisy.device)
        return self._predict(noisy, t, condition)

    def output_error(self, prediction: Tensor) -> Tensor:
        """Mean squared difference (B,) of the student's last prediction to the teacher's (B, C, h, w)."""
        return mean_square(self.prediction.take()[:, : prediction.shape[1]], prediction)

    def feature_errors(self, normalise: bool) -> Iterator[Tensor]:
        """Mean squared differences (B,) of every pair of stages; normalise: over the teacher's mean square."""
        for own, other in zip(self.student, self.teacher, strict=True):
            wanted = other.take().float()
            error = mean_square(own.take(), wanted)
            yield error / wanted.pow(2).flatten(1).mean(1).clamp_min(1e-12) if normalise else error


def tap_all(modules: list[nn.Module]) -> list[Tap]:
    taps = [Tap() for _ in modules]
    for module, tap in zip(modules, taps, strict=True):
        module.register_forward_hook(tap)
    return taps


def mean_square(a: Tensor, b: Tensor) -> Tensor:
    """(B, ...) twice -> (B,), in float32."""
    return (a.float() - b.float()).pow(2).flatten(1).mean(1)
