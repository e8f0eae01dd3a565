"""How the noisy latent and the condition meet in front of the denoiser.

Letters: B batch, C latent channels, h w latent size, S samples with a source.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.types import Condition

Predict = Callable[[Tensor, Tensor, Condition], Tensor]
Rows = Callable[[Tensor], Tensor]  # row numbers of a batch -> one value or picture for each


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

    def errors(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition, target: Tensor) -> Tensor:
        """(B,): mean squared error of the prediction against target (B, C, h, w), over all that the loss covers."""
        return mean_square(self(predict, noisy, t, condition), target)


def mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    """(B, C, h, w) twice -> (B,), in float32."""
    return (prediction.float() - target).pow(2).mean((1, 2, 3))


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
    supervised: the loss covers the source's half too, where it is noised as the target is.
    """

    def __init__(self, noise: Diffusion | None = None, supervised: bool = False) -> None:
        if supervised and noise is None:
            raise ValueError("a source without noise leaves nothing to predict")
        self.noise, self.supervised = noise, supervised

    def extra_channels(self, latent_channels: int) -> int:
        return 0

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        def beside(rows: Tensor) -> Tensor:
            source, _ = self._source(noisy[rows], t[rows], condition[rows])
            canvas = torch.cat([source, noisy[rows]], -1)  # (S, C, h, 2w)
            return predict(canvas, t[rows], condition[rows])[..., noisy.shape[-1] :]  # (S, C, h, w)

        return self._in_two(condition, beside, lambda rows: predict(noisy[rows], t[rows], condition[rows]))

    def errors(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition, target: Tensor) -> Tensor:
        if not self.supervised:
            return super().errors(predict, noisy, t, condition, target)

        def beside(rows: Tensor) -> Tensor:
            source, of_source = self._source(noisy[rows], t[rows], condition[rows])
            canvas = torch.cat([source, noisy[rows]], -1)  # (S, C, h, 2w)
            return mean_square(predict(canvas, t[rows], condition[rows]), torch.cat([of_source, target[rows]], -1))

        def alone(rows: Tensor) -> Tensor:
            return mean_square(predict(noisy[rows], t[rows], condition[rows]), target[rows])

        return self._in_two(condition, beside, alone)

    def _source(self, noisy: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor]:
        """The source as it stands on the canvas and what is predicted of it, (S, C, h, w) each."""
        source = condition.source
        if self.noise is None:
            return source, torch.zeros_like(source)
        noise = noise_of(noisy)
        return self.noise.noisy(source, noise, t), self.noise.target(source, noise, t)

    def _in_two(self, condition: Condition, beside: Rows, alone: Rows) -> Tensor:
        """What `beside` says of the samples with a source and `alone` of the others, in the order of the batch."""
        if condition.mask.is_meta:  # no values to look at: costs are counted for samples with a source
            return beside(torch.arange(len(condition.mask), device="meta"))
        device, given = condition.mask.device, has_source(condition).cpu()  # on a GPU the one wait of a call
        parts, places, nothing = [], [], condition.mask.new_zeros(())
        for call, chosen in ((beside, given), (alone, ~given)):
            rows = chosen.nonzero().flatten().to(device)
            if len(rows):
                parts.append(call(rows))
                places.append(rows)
            elif self.equally:  # both calls, always; this one's prediction counts nothing
                nothing = nothing + 0 * call(torch.zeros(1, dtype=torch.long, device=device)).sum()
        return torch.cat(parts)[torch.cat(places).argsort()] + nothing


def noise_of(noisy: Tensor) -> Tensor:
    """Standard normal noise like `noisy` (B, C, h, w), a pure function of each sample's first values."""
    if noisy.is_meta:
        return torch.empty_like(noisy)
    seeds = noisy.detach().float().flatten(1)[:, :2].contiguous().view(torch.int64).flatten().tolist()
    draws = [torch.randn(noisy.shape[1:], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return torch.stack(draws).to(noisy)
