"""What costs nothing, judged like a model, so that every number can be read against it.

copy        the source as it is
bicubic     the same for super-resolution, whose source is the bicubic enlargement
biharmonic  holes filled by scikit-image's biharmonic equation (Damelin & Hoang, 2018); a whole source is copied

A caller adds what needs a model: `trivial(task, batch, autoencoder=autoencoder(backbone), base=...)`.
"""

from collections.abc import Callable

import numpy as np
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor

from mtdiff.backbones.base import Backbone
from mtdiff.types import Batch

Draw = Callable[[Batch], Tensor]
"""Batch -> pictures (B, 3, H, W) in [-1, 1]."""


def trivial(task: str, batch: Batch, **drawn: Draw) -> dict[str, Tensor]:
    """Name -> outputs (B, 3, H, W) in [-1, 1]; empty where no example has a source and nothing else is `drawn`.

    What applies follows from the masks: `copy` and `biharmonic` need some source in every example, and the latter a
    hole in at least one. The task's name only says what a copy is called.
    """
    outputs = {}
    unknown = batch.mask.bool().flatten(1)  # (B, H W)
    if not unknown.all(1).any():
        outputs["bicubic" if task == "super_resolution" else "copy"] = batch.source
        if unknown.any():
            outputs["biharmonic"] = biharmonic(batch.source, batch.mask)
    return outputs | {name: draw(batch) for name, draw in drawn.items()}


def biharmonic(source: Tensor, mask: Tensor) -> Tensor:
    """source (B, 3, H, W) in [-1, 1], mask (B, 1, H, W), 1 in the holes -> filled, clipped to [-1, 1]."""
    filled = source.clone()
    for i in range(len(source)):
        hole = mask[i, 0].bool().cpu().numpy()
        if hole.any():
            picture = source[i].double().permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
            result = inpaint_biharmonic(picture, hole, channel_axis=-1, split_into_regions=True)
            filled[i] = torch.from_numpy(np.clip(result, -1, 1)).permute(2, 0, 1)
    return filled


def autoencoder(backbone: Backbone) -> Draw:
    """The target after encoding and decoding: the best that any denoiser on these latents can reach on average."""
    return lambda batch: backbone.decode(backbone.encode(batch.target))
