"""Colours, focus, noise and borders: what each degradation takes away, and what it leaves alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr

from mtdiff.rng import numpy_rng
from mtdiff.tasks.base import Task
from mtdiff.tasks.colorize import Colorize
from mtdiff.tasks.deblur import Deblur, motion_kernel
from mtdiff.tasks.denoise import Denoise
from mtdiff.tasks.outpaint import Outpaint, random_border
from mtdiff.types import Example, Record


def record(height: int = 48, width: int = 64) -> Record:
    y, x = np.mgrid[:height, :width] / 64
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * y * x + 1), np.sin(5 * y - 11 * x)]
    return Record(torch.from_numpy(np.round(127.5 + 100 * np.stack(waves)).astype(np.uint8)), "waves", "w")


def made(task: Task, seed: int = 0) -> Example:
    return task.make(record(), numpy_rng(seed), 0)


def error(example: Example) -> float:
    return float((example.source - example.target).square().mean())


def test_grey_is_the_luma_of_the_truth() -> None:
    example = made(Colorize())
    luma = rgb2ycbcr(record().image.permute(1, 2, 0).numpy())[..., 0]  # from 16 to 235
    expected = torch.from_numpy((luma - 16) / 219 * 2 - 1).float()
    torch.testing.assert_close(example.source, expected.expand(3, -1, -1), atol=2e-3, rtol=0)
    assert (example.prompt, made(Colorize(captioned=True)).prompt) == ("", "waves")


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2])
def test_a_motion_kernel_is_a_line_about_its_centre(angle: float) -> None:
    kernel = motion_kernel(9.0, angle)
    assert kernel.sum() == pytest.approx(1)
    assert kernel.shape == (11, 11)
    np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)
    y, x = np.mgrid[-5:6, -5:6]
    along, across = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    assert (kernel * along**2).sum() == pytest.approx(9**2 / 12, rel=0.15)  # of a uniform distribution
    assert (kernel * across**2).sum() < 0.3


def test_blur_keeps_the_mean_and_takes_the_detail() -> None:
    for kind in ("gaussian", "motion"):
        weak, strong = (
            np.mean([error(made(Deblur([kind], sigma=(s, s), length=(n, n)), seed)) for seed in range(8)])
            for s, n in ((0.01, 0.06), (0.03, 0.2))
        )
        assert 0 < 2 * weak < strong < 0.2
    flat = Record(torch.full((3, 32, 32), 90, dtype=torch.uint8), "", "flat")
    example = Deblur().make(flat, numpy_rng(1), 0)
    assert torch.allclose(example.source, example.target, atol=1e-3)


def test_noise_has_the_strength_that_is_asked_for() -> None:
    grey = Record(torch.full((3, 64, 64), 128, dtype=torch.uint8), "", "grey")
    for options, expected in (
        ({"kinds": ["gaussian"], "sigma": (20, 20)}, 20 / 255),
        ({"kinds": ["poisson"], "scale": (2, 2)}, 2 * (0.5 / 256) ** 0.5),
    ):
        example = Denoise(**options).make(grey, numpy_rng(0), 0)  # type: ignore[arg-type]
        assert float((example.source - example.target).std()) / 2 == pytest.approx(expected, rel=0.05)
    worse, better = (error(made(Denoise(["jpeg"], quality=(q, q)))) for q in (5, 40))
    assert worse > 1.5 * better > 0


@pytest.mark.parametrize("task", [Deblur(), Denoise()], ids=str)
def test_kinds_differ_from_example_to_example(task: Task) -> None:
    sources = [made(task, seed).source for seed in range(6)]
    assert all(not torch.equal(a, b) for i, a in enumerate(sources) for b in sources[:i])
    assert all(not example.mask.any() and example.prompt == "" for example in [made(task)])


@settings(max_examples=150, deadline=None)
@given(height=st.integers(8, 96), width=st.integers(8, 96), seed=st.integers(0, 10**6))
def test_a_border_takes_a_quarter_to_a_half(height: int, width: int, seed: int) -> None:
    mask = random_border(height, width, (0.25, 0.5), numpy_rng(seed))
    assert 0.25 <= mask.mean() <= 0.5
    rows, columns = ((1 - mask).any(axis) for axis in (1, 0))
    assert (1 - mask).sum() == rows.sum() * columns.sum()  # a window
    assert all(np.ptp(np.flatnonzero(v)) + 1 == v.sum() for v in (rows, columns))


def test_outpainting_gives_the_window_alone() -> None:
    example = made(Outpaint())
    assert torch.equal(example.source, example.target * (1 - example.mask))
    assert example.prompt == "waves"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (Outpaint, {"area": (0.0, 0.0)}, r"area=\[0.0, 0.0\]: expected two ascending shares above 0 and below 1"),
        (Outpaint, {"area": (0.5, 0.25)}, "area"),
        (Outpaint, {"area": (0.5, 1.0)}, "area"),
        (Deblur, {"kinds": []}, r"kinds=\[\]: expected one or more of gaussian, motion"),
        (Deblur, {"kinds": ["box"]}, "kinds=.'box'.: expected one or more of gaussian, motion"),
        (Deblur, {"sigma": (0.3, 0.1)}, r"sigma=\[0.3, 0.1\]: expected two ascending numbers from 0 to 0.25"),
        (Deblur, {"length": (0.1, 0.9)}, "length"),
        (Denoise, {"kinds": ["salt"]}, "kinds=.'salt'.: expected one or more of gaussian, poisson, jpeg"),
        (Denoise, {"quality": (0, 40)}, r"quality=\[0, 40\]: expected two ascending numbers from 1 to 100"),
    ],
)
def test_bad_options_are_one_line(task: type[Task], options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(**options)
