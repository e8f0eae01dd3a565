"""Norms without weights that the time shifts and scales (adaLN-Zero, Peebles & Xie, arXiv 2212.09748).

(norm(x) (1 + scale) + shift), where a linear layer makes shift and scale of the feed-forward layer in its rows
[3 D, 4 D) and [4 D, 5 D). A weight and a bias on such a norm are the same network with other rows:

    (g n + b)(1 + s) + h  =  n (1 + s') + h',    s' = g s + (g - 1),    h' = h + b s + b

Letters: D width.
"""

import torch
from torch import nn

from mtdiff.backbones.base import Site

SHIFT, SCALE = 3, 4  # of the feed-forward layer, among the chunks of the modulating layer's rows


@torch.no_grad()
def absorb(norm: Site, modulator: nn.Linear) -> None:
    """Put a norm's weight and bias into the layer that modulates it, and leave the norm without."""
    affine = norm.module
    assert isinstance(affine, nn.LayerNorm)
    if not affine.elementwise_affine:
        return
    width = affine.normalized_shape[0]
    shift, scale = (slice(k * width, (k + 1) * width) for k in (SHIFT, SCALE))
    g, b = affine.weight, affine.bias  # (D,)
    for rows, constant in ((modulator.weight, 0.0), (modulator.bias, 1.0)):
        gain, offset = (g, b) if rows.dim() == 1 else (g[:, None], b[:, None])
        rows[shift] += offset * rows[scale] + constant * offset
        rows[scale] = gain * rows[scale] + constant * (gain - 1)
    norm.replace(nn.LayerNorm(width, affine.eps, elementwise_affine=False))
