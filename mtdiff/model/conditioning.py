"""From a batch of pictures and prompts to latents and a Condition; conditioning dropout.

Letters: B batch, C latent channels, H W pixels, h w latent size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mtdiff.backbones.base import Encoder
from mtdiff.types import Batch, Condition, Text

EncodeExtra = Callable[[Encoder, Mapping[str, Tensor]], Mapping[str, Tensor]]


def encode_condition(backbone: Encoder, batch: Batch, encode_extra: EncodeExtra | None = None) -> Condition:
    """Encode what the model is given. A sample whose source is wholly unknown gets a zero latent, without encoding.

    encode_extra: what the method makes of the batch's `extra`; None: the model reads none of it.
    """
    shape = latent_shape(backbone, batch)
    mask = nn.functional.adaptive_avg_pool2d(batch.mask, shape[1:])  # (B, 1, h, w), the unknown share of each cell
    source = torch.zeros(len(batch), *shape, device=batch.source.device)
    given = (batch.mask < 1).flatten(1).any(1).nonzero().flatten()
    if len(given):
        source[given] = backbone.encode(batch.source[given])
    text = backbone.embed(batch.prompt)
    extra = {} if encode_extra is None else encode_extra(backbone, batch.extra)
    return Condition(source, mask, text.tokens, batch.task, {**text.extra, **extra})


def latent_shape(backbone: Encoder, batch: Batch) -> tuple[int, int, int]:
    """Return (C, h, w) of a batch's latents: its pictures may have another shape than the backbone's own square."""
    c, h, _ = backbone.latent_shape
    factor = backbone.size // h
    return c, batch.target.shape[-2] // factor, batch.target.shape[-1] // factor


@dataclass(frozen=True)
class Dropout:
    """Shares of training samples that lose their text, their source image, or both (InstructPix2Pix: 5 % each)."""

    text: float = 0.05
    image: float = 0.05
    both: float = 0.05

    def __post_init__(self) -> None:
        shares = (self.text, self.image, self.both)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"training.dropout={shares}: expected shares of at least 0 that sum to at most 1")

    def __call__(self, condition: Condition, empty: Text, u: Tensor) -> Condition:
        """Drop what u (B,), a number in [0, 1) for each sample, says. empty: the encoded empty prompt, one row."""
        no_text = (u < self.text) | ((u >= self.text + self.image) & (u < self.text + self.image + self.both))
        no_image = (u >= self.text) & (u < self.text + self.image + self.both)
        return replace(
            condition,
            text=_replace_rows(no_text, empty.tokens, condition.text),
            extra={k: _replace_rows(no_text, v, condition.extra[k]) for k, v in empty_extra(condition, empty).items()},
            source=_replace_rows(no_image, torch.zeros_like(condition.source[:1]), condition.source),
            mask=_replace_rows(no_image, torch.ones_like(condition.mask[:1]), condition.mask),
        )


def empty_extra(condition: Condition, empty: Text) -> dict[str, Tensor]:
    """What takes the place of a condition's extra tensors where the text is dropped, one row each: the empty prompt's
    own, and zeros for what the method reads beside the text.
    """
    return {k: empty.extra.get(k, torch.zeros_like(v[:1])) for k, v in condition.extra.items()}


def _replace_rows(rows: Tensor, replacement: Tensor, value: Tensor) -> Tensor:
    """Replace the rows of `value` where `rows` (B,) is true by the one row of `replacement`."""
    return torch.where(rows.view(-1, *[1] * (value.dim() - 1)), replacement, value)
