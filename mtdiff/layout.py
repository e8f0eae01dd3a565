"""How the noisy latent and the condition meet in front of the denoiser.

Letters: B batch, C latent channels, h w latent size, S samples with a source.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mtdiff.diffusion import Diffusion
from mtdiff.types import Condition

Predict = Callable[[Tensor, Tensor, Condition], Tensor]


class Layout(ABC):
    """Wraps one call of the denoiser; `extra_channels` is what it adds to the input convolution.

    equally: every process has to call `predict` equally often, whatever its batch, since the network is sharded.
    """

    equally: bool = False

    @abstractmethod
    def extra_channels(self, latent_channels: int) -> int: ...

    @abstractmethod
    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """noisy (B, C, h, w), t (B,) -> prediction for the target alone, (B, C, h, w).

        A layout that calls `predict` more than once must not be joined with layers that read the routing: gradient
        checkpointing would replay the first call with the last call's tasks.
        """


def has_source(condition: Condition) -> Tensor:
    """(B,) bool: anything of the source is known."""
    return condition.mask.flatten(1).amin(1) < 1


class ChannelConcat(Layout):
    """Source latent and mask beside the noisy latent (InstructPix2Pix, arXiv 2211.09800, and SD inpainting).

    A sample without a source gets zeros in place of its mask, which is all ones: source and mask are zero then, and the
    extra channels see nothing, as in the paper's text-to-image convolution, which has no image channels. A mask that
    hides nothing is zero as well, so that a task folds exactly into diffusers' own pipelines: 4 channels for
    text-to-image, 8 for a whole source (InstructPix2Pix), 9 with a mask (inpainting).
    """

    def extra_channels(self, latent_channels: int) -> int:
        return latent_channels + 1

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        mask = condition.mask * has_source(condition).view(-1, 1, 1, 1)
        packed = torch.cat([noisy, condition.source, mask], 1)  # (B, 2C + 1, h, w)
        return predict(packed, t, condition)


class Canvas(Layout):
    """Source left, target right on one picture of double width (ONE-PIC, arXiv 2412.05619); without a source the target
    alone, at its own width, in a call of its own.

    noise: noise the source to the target's level; None keeps it clean at every step. The noise is drawn by a generator
    that starts from the noisy latent's own bits, so that the prediction stays a function of its arguments.
    """

    def __init__(self, noise: Diffusion | None = None) -> None:
        self.noise = noise

    def extra_channels(self, latent_channels: int) -> int:
        return 0

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        if noisy.is_meta:  # no values to look at: costs are counted for samples with a source
            return self._beside(predict, noisy, t, condition)
        given = has_source(condition)
        parts, rows, nothing = [], [], noisy.new_zeros(())
        for call, index in ((self._beside, given.nonzero().flatten()), (_alone, (~given).nonzero().flatten())):
            if len(index):
                parts.append(call(predict, noisy[index], t[index], condition[index]))
                rows.append(index)
            elif self.equally:  # both calls, always; this one's prediction counts nothing
                nothing = 0 * call(predict, noisy[:1], t[:1], condition[:1]).sum()
        return torch.cat(parts)[torch.cat(rows).argsort()] + nothing  # (B, C, h, w)

    def _beside(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        source = condition.source
        if self.noise is not None:
            source = self.noise.noisy(source, noise_of(noisy), t)
        canvas = torch.cat([source, noisy], -1)  # (S, C, h, 2w)
        return predict(canvas, t, condition)[..., noisy.shape[-1] :]  # (S, C, h, w)


def _alone(predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
    return predict(noisy, t, condition)


def noise_of(noisy: Tensor) -> Tensor:
    """Standard normal noise like `noisy` (B, C, h, w), a pure function of each sample's first values."""
    if noisy.is_meta:
        return torch.empty_like(noisy)
    seeds = noisy.detach().float().flatten(1)[:, :2].contiguous().view(torch.int64).flatten().tolist()
    draws = [torch.randn(noisy.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws).to(noisy)
