"""Each task: what it fills in, what it may not touch, and the holes that inpainting cuts."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtdiff.rng import numpy_rng
from mtdiff.tasks import masks
from mtdiff.tasks.colorize import Colorize
from mtdiff.tasks.deblur import Deblur
from mtdiff.tasks.denoise import Denoise
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.outpaint import Outpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import Batch, Example, Record

TASKS = [
    TextToImage(),
    Edit(),
    SuperResolution(),
    SuperResolution(scale=2),
    SuperResolution(degradation="bicubic"),
    SuperResolution(scale=2, degradation="bicubic"),
    Inpaint(removal=0.0),
    Inpaint(removal=1.0),
    Colorize(),
    Deblur(),
    Denoise(),
    Outpaint(),
]


def waves(phase=0.0, height=64, width=64):
    """(3, H, W) uint8, smooth."""
    y, x = np.mgrid[:height, :width] / 64
    colours = [np.sin(9 * x + 4 * y + phase), np.cos(7 * y * x + 1), np.sin(5 * y - 11 * x)]
    return torch.from_numpy(np.round(127.5 + 100 * np.stack(colours)).astype(np.uint8))


def picture(**size):
    return Record(waves(**size), "waves", "w")


def pair():
    return Record(waves(), "waves", "w>v", "word", waves(2.0), "turn the waves", "turned waves")


def record_for(task):
    (need,) = task.needs
    return pair() if need in ("edit", "removal") else picture()


def make(task, record=None, seed=0):
    return task.make(record or record_for(task), numpy_rng(seed), 3)


def psnr(a, b):
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


# All tasks


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_every_task_fills_the_same_fields(task):
    example = make(task)
    assert example.target.shape == example.source.shape == (3, 64, 64)
    assert example.mask.shape == (1, 64, 64)
    for image in (example.target, example.source, example.mask):
        assert image.dtype == torch.float32
        assert image.is_contiguous()
    assert example.target.abs().max() <= 1
    assert example.source.abs().max() <= 1
    assert set(example.mask.unique().tolist()) <= {0.0, 1.0}
    assert not (example.source * example.mask).any()  # nothing is given where the source is unknown
    assert (example.task, example.key) == (3, record_for(task).key)
    assert example.target_caption == ("turned waves" if record_for(task).edited is not None else "waves")


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_randomness_comes_from_the_generator_alone(task):
    first, again = make(task), make(task)
    for field in dataclasses.fields(Example):
        a, b = getattr(first, field.name), getattr(again, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_the_target_is_the_record_and_the_record_stays(task):
    record = record_for(task)
    truth = record.image if record.edited is None else record.edited
    before = record.image.clone(), truth.clone()
    example = make(task, record)
    assert torch.allclose((example.target + 1) * 127.5, truth.float(), atol=1e-4)
    assert example.target.min() >= -1
    assert torch.equal(record.image, before[0])
    assert torch.equal(truth, before[1])


def test_tasks_mix_in_a_batch():
    batch = Batch.collate([make(task) for task in TASKS])
    assert batch.target.shape == (len(TASKS), 3, 64, 64)
    assert batch.mask.shape == (len(TASKS), 1, 64, 64)
    assert batch.task.dtype == torch.int64


def test_names_needs_and_metrics():
    shown = {
        task.name: (dict(task.needs), {m.name: m.direction for m in task.metrics})
        for task in (TextToImage(), Edit(), SuperResolution(), Inpaint())
    }
    fidelity = {"perceptual": "lower", "psnr": "higher", "ssim": "higher"}
    distribution = {"frechet": "lower", "kernel": "lower", "caption": "higher"}
    inpaint = {**fidelity, "directional_image": "higher"}
    assert shown == {
        "text_to_image": ({"caption": 1.0}, distribution),
        "edit": ({"edit": 1.0}, {"directional": "higher", **fidelity}),
        "super_resolution": ({"picture": 1.0}, fidelity),
        "inpaint": ({"removal": 0.5, "picture": 0.5}, inpaint),
    }


# One by one


def test_text_to_image_is_given_no_picture():
    example = make(TextToImage())
    assert not example.source.any()
    assert example.mask.all()
    assert example.prompt == "waves"


@pytest.mark.parametrize("task", [Edit(), Inpaint(removal=1.0)], ids=str)
def test_instructions_come_with_the_whole_picture(task):
    example, record = make(task), pair()
    assert not example.mask.any()
    assert torch.allclose((example.source + 1) * 127.5, record.image.float(), atol=1e-4)
    assert example.prompt == "turn the waves"
    assert (example.source_caption, example.target_caption) == ("waves", "turned waves")


def test_edit_refuses_a_record_without_an_edit():
    with pytest.raises(ValueError, match="record 'w' has no edited picture"):
        make(Edit(), picture())


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_source_is_shrunk_and_in_place(scale):
    example = make(SuperResolution(scale, "bicubic"))
    assert example.prompt == ""
    assert not example.mask.any()
    near = psnr(example.source, example.target)
    assert 28 < near < 60  # close, but not the picture itself
    for shift, axis in ((1, 1), (-1, 1), (1, 2), (-1, 2)):
        assert psnr(example.source.roll(shift, axis), example.target) < near - 3


@pytest.mark.parametrize("scale", [2, 4])
def test_source_has_no_detail_finer_than_the_scale(scale):
    noise = torch.from_numpy(numpy_rng(1).integers(0, 256, (3, 64, 64), dtype=np.uint8))
    example = make(SuperResolution(scale, "bicubic"), Record(noise, "noise", "n"))
    power = torch.fft.rfft2(example.source).abs().square().sum(0)[:, 1:]
    passed = power[: 32 // scale, : 32 // scale].sum() + power[-32 // scale :, : 32 // scale].sum()
    assert passed / power.sum() > 0.85
    assert example.source.std() < 0.8 * example.target.std()


@pytest.mark.parametrize("scale", [2, 4])
def test_realesrgan_source_is_worse_than_bicubic_but_the_same_picture(scale):
    clean = make(SuperResolution(scale, "bicubic"))
    drawn = [make(SuperResolution(scale), seed=seed) for seed in range(40)]
    quality = sorted(psnr(example.source, clean.target) for example in drawn)
    assert quality[-1] < psnr(clean.source, clean.target)
    assert quality[20] > 14  # waves alone have a deviation of 0.55, which is 11 dB
    assert len({round(q, 3) for q in quality}) == 40


@pytest.mark.parametrize("degradation", ["realesrgan", "bicubic"])
def test_a_larger_scale_loses_more(degradation):
    def quality(scale):
        drawn = (make(SuperResolution(scale, degradation), seed=seed) for seed in range(40))
        return np.mean([psnr(example.source, example.target) for example in drawn])

    assert quality(2) > quality(4) + 1


def test_enlarging_sharp_edges_stays_in_range():
    tiles = torch.zeros(3, 64, 64, dtype=torch.uint8)
    tiles[:, ::16, :], tiles[:, 20:40, 20:40] = 255, 255
    source = make(SuperResolution(2, "bicubic"), Record(tiles, "tiles", "t")).source
    assert (source.min(), source.max()) == (-1, 1)  # bicubic interpolation overshoots


def test_inpainting_needs_follow_its_share():
    assert dict(Inpaint(removal=0.0).needs) == {"picture": 1.0}
    assert dict(Inpaint(removal=1.0).needs) == {"removal": 1.0}
    assert dict(Inpaint(removal=0.25).needs) == {"removal": 0.25, "picture": 0.75}


def test_holes_hide_the_picture_and_nothing_else():
    for seed in range(20):
        example = make(Inpaint(removal=0.0), seed=seed)
        hole = example.mask.bool().expand(3, -1, -1)
        assert not example.source[hole].any()
        assert torch.equal(example.source[~hole], example.target[~hole])
        assert 0.1 <= example.mask.mean() <= 0.5
        assert example.prompt == "waves"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        (SuperResolution, {"scale": 3}, "scale=3: expected 2 or 4"),
        (SuperResolution, {"degradation": "jpeg"}, "degradation='jpeg': expected one of realesrgan, bicubic"),
        (Inpaint, {"removal": 1.5}, r"removal=1.5: expected a share in \[0, 1\]"),
        (Inpaint, {"removal": float("nan")}, "removal=nan"),
    ],
)
def test_bad_options_are_refused(task, options, message):
    with pytest.raises(ValueError, match=message):
        task(**options)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match="scales"):
        SuperResolution(scales=2)


# Holes


def sides():
    return st.integers(16, 160)


@settings(max_examples=150, deadline=None)
@given(height=sides(), width=sides(), seed=st.integers(0, 10**6))
@pytest.mark.parametrize("draw", [masks.box, masks.strokes, masks.random_hole])
def test_coverage_is_10_to_50_percent_at_every_size(draw, height, width, seed):
    mask = draw(height, width, numpy_rng(seed))
    assert mask.shape == (height, width)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 1}
    assert 0.1 <= mask.mean() <= 0.5


@pytest.mark.parametrize("draw", [masks.box, masks.strokes])
def test_coverage_holds_where_rounding_bites(draw):
    covered = [draw(16, 16, numpy_rng(seed)).mean() for seed in range(2000)]
    assert 0.1 <= min(covered) < 0.11
    assert 0.48 < max(covered) <= 0.5


@pytest.mark.parametrize("draw", [masks.box, masks.strokes])
def test_coverage_and_place_vary(draw):
    drawn = np.stack([draw(64, 64, numpy_rng(seed)) for seed in range(300)])
    covered = drawn.mean((1, 2))
    assert np.histogram(covered, 4, (0.1, 0.5))[0].min() > 300 / 8
    blocks = drawn.reshape(300, 8, 8, 8, 8).any((2, 4)).mean(0)  # how often each block of 8 x 8 pixels is touched
    assert blocks.min() > 0.01
    assert drawn.mean(0).max() < 0.8


def is_box(mask):
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return mask.sum() == len(rows) * len(columns) == np.ptp(rows) * np.ptp(columns) + np.ptp(rows) + np.ptp(columns) + 1


def test_holes_are_boxes_half_the_time():
    count = sum(is_box(masks.random_hole(64, 64, numpy_rng(seed))) for seed in range(400))
    assert 155 <= count <= 245  # 4.5 sigma


def test_boxes_have_moderate_proportions():
    for seed in range(200):
        mask = masks.box(60, 120, numpy_rng(seed))
        assert is_box(mask)
        rows, columns = mask.any(1).sum() / 60, mask.any(0).sum() / 120
        assert 0.45 < rows / columns < 2.2
