"""How the noisy latent and the condition meet in front of the denoiser.

Letters: B batch, C latent channels, h w latent size.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mtdiff.types import Condition

Predict = Callable[[Tensor, Tensor, Condition], Tensor]


class Layout(ABC):
    """Wraps one call of the denoiser; `extra_channels` is what it adds to the input convolution."""

    @abstractmethod
    def extra_channels(self, latent_channels: int) -> int: ...

    @abstractmethod
    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """noisy (B, C, h, w), t (B,) -> prediction for the target alone, (B, C, h, w)."""


class ChannelConcat(Layout):
    """Source latent and known-region map beside the noisy latent (InstructPix2Pix, arXiv 2211.09800, and SD inpainting).

    The map is 1 - mask: for a sample without a source, source and map are zero and the extra channels see nothing, as
    in the paper's text-to-image convolution, which has no image channels.
    """

    def extra_channels(self, latent_channels: int) -> int:
        return latent_channels + 1

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        packed = torch.cat([noisy, condition.source, 1 - condition.mask], 1)  # (B, 2C + 1, h, w)
        return predict(packed, t, condition)
