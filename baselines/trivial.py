"""What costs nothing, judged like a model, so that every number can be read against it.

copy        the source as it is
bicubic     the same for super-resolution, whose source is the bicubic enlargement
biharmonic  holes filled by scikit-image's biharmonic equation (Damelin & Hoang, 2018); a whole source is copied

and what a task names in `references`:

wiener      scikit-image's Wiener filter against a round Gaussian blur, whatever the blur really was
bilateral   OpenCV's bilateral filter (Tomasi & Manduchi, 1998)
edges       unknown pixels take the nearest known one, which extends a window's edges
mean_colour every pixel takes the class of a map whose mean colour in the other examples' sources is nearest

A caller adds what needs a model: `trivial(task, batch, autoencoder=autoencoder(backbone), base=...)`.
"""

from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from skimage.restoration import inpaint_biharmonic
from skimage.restoration import wiener as filter_wiener
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone
from mtdiff.tasks.kernels import gaussian_kernel, squared_distance
from mtdiff.types import Batch

Picture = NDArray[np.float32]
Draw = Callable[[Batch], Tensor]
"""Batch -> pictures (B, 3, H, W) in [-1, 1]."""


def trivial(task: str, batch: Batch, references: Sequence[str] = (), **drawn: Draw) -> dict[str, Tensor]:
    """Name -> outputs (B, 3, H, W) in [-1, 1]; empty where no example has a source and nothing else is `drawn`.

    What applies follows from the masks: `copy` and `biharmonic` need some source in every example, and the latter a
    hole in at least one. The task's name only says what a copy is called. references: further ones, of REFERENCES.
    """
    outputs = {}
    unknown = batch.mask.bool().flatten(1)  # (B, H W)
    if not unknown.all(1).any():
        outputs["bicubic" if task == "super_resolution" else "copy"] = batch.source
        if unknown.any():
            outputs["biharmonic"] = biharmonic(batch.source, batch.mask)
    outputs |= {name: REFERENCES[name](batch) for name in references}
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


def wiener(batch: Batch, sigma: float = 0.02, balance: float = 0.05) -> Tensor:
    """The source, sharpened as if it were blurred by a Gaussian. sigma: a share of the shorter side. balance: against
    noise (Orieux et al., 2010). Borders are mirrored, since the filter takes pictures for periodic.
    """
    pixels = sigma * min(batch.source.shape[-2:])
    radius = max(1, round(3 * pixels))
    kernel, around = gaussian_kernel(squared_distance(radius, (pixels, pixels))), 2 * radius

    def sharpen(picture: Picture) -> Picture:
        wide = np.pad(picture, ((around, around), (around, around), (0, 0)), mode="reflect")
        planes = [filter_wiener(plane, kernel, balance, clip=False) for plane in np.moveaxis(wide, -1, 0)]
        return np.stack(planes, -1)[around:-around, around:-around]

    return filter_sources(batch, sharpen)


def bilateral(batch: Batch, side: int = 5, colour: float = 0.3, space: float = 1.5) -> Tensor:
    """The source, smoothed within its edges. side: of the window in pixels. colour: sigma on a range of 1; space: in
    pixels."""
    return filter_sources(batch, lambda p: np.asarray(cv2.bilateralFilter(p, side, colour, space), np.float32))


def extend_edges(batch: Batch) -> Tensor:
    """Unknown pixels of every source take the colour of the nearest known one; where nothing is known, grey stays."""
    filled = batch.source.clone()
    for i, mask in enumerate(batch.mask[:, 0].bool().cpu().numpy()):
        if not mask.all():
            rows, columns = distance_transform_edt(mask, return_distances=False, return_indices=True)
            filled[i] = filled[i][:, torch.from_numpy(rows), torch.from_numpy(columns)]
    return filled


def nearest_mean_colour(batch: Batch) -> Tensor:
    """Maps (B, 3, H, W) by the colours of the sources alone. What a class looks like is learned from the truths of the
    other examples, so that no example helps to answer itself; a lone example is answered by its source.
    """
    sources, targets = (x.cpu().flatten(2).mT for x in (batch.source, batch.target))  # (B, H W, 3)
    colours, classes = targets.flatten(0, 1).unique(dim=0, return_inverse=True)
    one_hot = nn.functional.one_hot(classes.view(len(batch), -1), len(colours)).float()  # (B, H W, K)
    sums, counts = one_hot.mT @ sources, one_hot.sum(1)  # (B, K, 3), (B, K)
    answers = []
    for i, source in enumerate(sources):
        others, seen = sums.sum(0) - sums[i], counts.sum(0) - counts[i]
        known = seen > 0.5
        means = others[known] / seen[known, None]
        answers.append(colours[known][torch.cdist(source, means).argmin(1)] if known.any() else source)
    return torch.stack(answers).mT.reshape(batch.target.shape)


def filter_sources(batch: Batch, change: Callable[[Picture], Picture]) -> Tensor:
    """Every source (H, W, 3) in [0, 1] changed and clipped, as (B, 3, H, W) in [-1, 1]."""
    pictures = [np.ascontiguousarray(x) for x in ((batch.source + 1) / 2).cpu().permute(0, 2, 3, 1).numpy()]
    changed = np.stack([np.clip(change(x), 0, 1) for x in pictures]).astype(np.float32)
    return torch.from_numpy(changed).permute(0, 3, 1, 2) * 2 - 1


REFERENCES: Mapping[str, Draw] = {
    "wiener": wiener,
    "bilateral": bilateral,
    "edges": extend_edges,
    "mean_colour": nearest_mean_colour,
}
"""Trivial answers that tasks ask for by name."""


def autoencoder(backbone: Backbone) -> Draw:
    """The target after encoding and decoding: the best that any denoiser on these latents can reach on average."""
    return lambda batch: backbone.decode(backbone.encode(batch.target))
