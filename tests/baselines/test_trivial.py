"""Reference outputs: which apply, and that they are what their names say."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.restoration import inpaint_biharmonic
from torch import Tensor, nn

from baselines.trivial import autoencoder, biharmonic, bilateral, extend_edges, trivial, wiener
from mtdiff.metrics.pictures import psnr
from mtdiff.tasks.corruptions import blur
from mtdiff.tasks.kernels import gaussian_kernel, squared_distance
from mtdiff.types import Batch, Example


def smooth(n: int, side: int = 32) -> Tensor:
    coarse = torch.randn(n, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)


def batch(masks: Tensor) -> Batch:
    """Targets, and sources that are 0 where the mask (n, 1, H, W) is 1."""
    target = smooth(len(masks), masks.shape[-1])
    columns = zip(target, target * (1 - masks), masks, strict=True)
    return Batch.collate([Example(t, s, m, "", 0, str(i)) for i, (t, s, m) in enumerate(columns)])


def masks(*kinds: str, side: int = 32) -> Tensor:
    """`none`: a whole source. `hole`: a box is missing. `all`: no source."""
    mask = torch.zeros(len(kinds), 1, side, side)
    for i, kind in enumerate(kinds):
        if kind == "all":
            mask[i] = 1
        elif kind == "hole":
            mask[i, :, 8:20, 10 + i : 24] = 1
    return mask


@pytest.mark.parametrize(
    ("task", "kinds", "expected"),
    [
        ("text_to_image", ("all", "all"), []),
        ("edit", ("none", "none"), ["copy"]),
        ("super_resolution", ("none", "none"), ["bicubic"]),
        ("inpaint", ("hole", "none"), ["copy", "biharmonic"]),
        ("inpaint", ("none", "none"), ["copy"]),
        ("anything", ("all", "none"), []),
    ],
)
def test_masks_decide_which_apply(task: str, kinds: tuple[str, ...], expected: list[str]) -> None:
    examples = batch(masks(*kinds))
    outputs = trivial(task, examples)
    assert list(outputs) == expected
    assert all(out.shape == examples.target.shape for out in outputs.values())


def test_copy_is_the_source() -> None:
    examples = batch(masks("none", "hole"))
    assert torch.equal(trivial("inpaint", examples)["copy"], examples.source)
    whole = batch(masks("none"))
    assert torch.equal(trivial("super_resolution", whole)["bicubic"], whole.source)


def test_biharmonic_fills_the_holes_and_nothing_else() -> None:
    examples = batch(masks("hole", "none", "hole"))
    before = examples.source.clone()
    filled = trivial("inpaint", examples)["biharmonic"]
    known = (1 - examples.mask).bool().expand_as(filled)
    assert torch.equal(filled[known], examples.target[known])
    assert torch.equal(examples.source, before)
    gain = psnr(filled, examples.target) - psnr(examples.source, examples.target)
    assert gain[0] > 10
    assert gain[2] > 10
    assert gain[1] == 0


def test_biharmonic_is_scikit_images() -> None:
    examples = batch(masks("hole"))
    picture, hole = examples.source[0].double().permute(1, 2, 0).numpy(), examples.mask[0, 0].bool().numpy()
    expected = torch.from_numpy(inpaint_biharmonic(picture, hole, channel_axis=-1)).permute(2, 0, 1)
    torch.testing.assert_close(biharmonic(examples.source, examples.mask)[0].double(), expected, atol=1e-6, rtol=0)


def test_biharmonic_stays_in_range() -> None:
    examples = batch(masks("hole"))
    steep = replace(examples, source=examples.source.sign() * (1 - examples.mask))
    filled = biharmonic(steep.source, steep.mask)
    assert filled.abs().max() <= 1


def test_a_task_asks_for_further_references() -> None:
    examples = batch(masks("hole", "none"))
    outputs = trivial("anything", examples, ["edges", "bilateral", "wiener"])
    assert list(outputs) == ["copy", "biharmonic", "edges", "bilateral", "wiener"]
    assert all(out.shape == examples.target.shape and out.abs().max() <= 1 for out in outputs.values())


def test_edges_are_numpys_edge_padding() -> None:
    window = torch.ones(1, 1, 32, 32)
    window[..., 6:20, 9:32] = 0
    examples = batch(window)
    known = examples.target[0, :, 6:20, 9:32].numpy()
    expected = np.pad(known, ((0, 0), (6, 12), (9, 0)), mode="edge")
    assert np.array_equal(extend_edges(examples)[0].numpy(), expected)


def test_filters_restore() -> None:
    """Each on what it is for: the Wiener filter on its own blur, the bilateral one on white noise."""
    examples = batch(masks("none", "none"))
    noisy = replace(examples, source=(examples.target + 0.2 * torch.randn_like(examples.target)).clamp(-1, 1))
    kernel = gaussian_kernel(squared_distance(3, (0.64, 0.64)))  # 2 % of 32 px
    pictures = ((examples.target + 1) / 2).permute(0, 2, 3, 1).numpy()
    blurred = torch.from_numpy(np.stack([blur(p, kernel) for p in pictures])).permute(0, 3, 1, 2) * 2 - 1
    cases = [(bilateral, noisy, 4.0), (wiener, replace(examples, source=blurred), 0.5)]
    for restore, given, gain in cases:
        better = psnr(restore(given), examples.target) - psnr(given.source, examples.target)
        assert (better > gain).all(), better


class Rounding:
    """Stands for a backbone: its autoencoder keeps one decimal."""

    def encode(self, images: Tensor) -> Tensor:
        return (images * 10).round()

    def decode(self, latents: Tensor) -> Tensor:
        return latents / 10


def test_a_caller_adds_what_needs_a_model() -> None:
    examples = batch(masks("all", "all"))
    outputs = trivial("text_to_image", examples, autoencoder=autoencoder(Rounding()), base=lambda b: -b.target)  # type: ignore[arg-type]
    assert list(outputs) == ["autoencoder", "base"]
    assert torch.equal(outputs["autoencoder"], (examples.target * 10).round() / 10)
    assert torch.equal(outputs["base"], -examples.target)
