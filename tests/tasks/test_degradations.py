"""The super-resolution degradations: each draw, then the whole chain."""

import random
from collections import Counter
from dataclasses import asdict, replace
from math import pi, sqrt

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_waves import flat, generator, picture

from mtdiff.tasks import degradations as deg
from mtdiff.tasks.degradations import PUBLISHED_SECOND, Bicubic, RealESRGAN, Stage


def assert_share(count, total, share, sigmas=4.5):
    """A binomial count: wrong by chance once in 150,000 tests."""
    assert abs(count - total * share) <= sigmas * sqrt(total * share * (1 - share))


# Published parameters


PUBLISHED = {  # field: (first stage, second stage) of x4plus
    "blur_prob": (1.0, 0.8),
    "kernel_sides": ((7, 21), (7, 21)),
    "kernel_odds": ((0.45, 0.25, 0.12, 0.03, 0.12, 0.03),) * 2,
    "blur_sigma": ((0.2, 3.0), (0.2, 1.5)),
    "generalised_shape": ((0.5, 4.0), (0.5, 4.0)),
    "plateau_shape": ((1.0, 2.0), (1.0, 2.0)),
    "sinc_prob": (0.1, 0.1),
    "sinc_lowest": ((pi / 3, pi / 5), (pi / 3, pi / 5)),
    "resize_odds": ((0.2, 0.7, 0.1), (0.3, 0.4, 0.3)),
    "resize_range": ((0.15, 1.5), (0.3, 1.2)),
    "gaussian_prob": (0.5, 0.5),
    "noise_sigma": ((1.0, 30.0), (1.0, 25.0)),
    "poisson_scale": ((0.05, 3.0), (0.05, 2.5)),
    "grey_prob": (0.4, 0.4),
    "jpeg_quality": ((30, 95), (30, 95)),
}


def test_defaults_are_the_published_ones():
    default = asdict(RealESRGAN())
    assert default.pop("first") == {name: pair[0] for name, pair in PUBLISHED.items()}
    assert default.pop("second") == {name: pair[1] for name, pair in PUBLISHED.items()}
    assert default == {
        "scale": 4,
        "reference_size": 256,
        "final_sinc_prob": 0.8,
        "final_sinc_lowest": pi / 3,
        "jpeg_last_prob": 0.5,
        "min_side": 4,
    }


# Draws


def test_pick_follows_its_odds():
    odds, rng = (0.45, 0.0, 0.25, 0.3), generator(1)
    counts = Counter(deg.pick(odds, rng) for _ in range(20_000))
    for index, share in enumerate(odds):
        assert_share(counts[index], 20_000, share)


@pytest.mark.parametrize("stage", [Stage(), PUBLISHED_SECOND])
def test_resize_factors_follow_their_odds_and_limits(stage):
    rng, (low, high) = generator(2), stage.resize_range
    factors = np.array([deg.draw_factor(stage.resize_odds, stage.resize_range, rng) for _ in range(10_000)])
    larger, smaller = factors[factors > 1], factors[factors < 1]
    counts = (len(larger), len(smaller), (factors == 1).sum())
    for count, share in zip(counts, stage.resize_odds, strict=True):
        assert_share(count, 10_000, share)
    assert larger.max() <= high
    assert smaller.min() >= low
    assert larger.mean() == pytest.approx((1 + high) / 2, rel=0.01)
    assert smaller.mean() == pytest.approx((1 + low) / 2, rel=0.02)


def test_resize_modes_and_kernel_sides_are_equally_likely():
    rng = generator(3)
    modes = Counter(deg.draw_mode(rng) for _ in range(9_000))
    sides = Counter(deg.draw_side((7, 21), rng) for _ in range(8_000))
    assert set(modes) == set(deg.RESIZE_MODES)
    assert set(sides) == set(range(7, 22, 2))
    for count in modes.values():
        assert_share(count, 9_000, 1 / 3)
    for count in sides.values():
        assert_share(count, 8_000, 1 / 8)


@pytest.mark.parametrize(("limits", "below"), [((0.5, 4.0), 0.5), ((1.0, 2.0), 0), ((0.4, 0.8), 1)])
def test_shapes_lie_on_both_sides_of_one(limits, below):
    rng = generator(4)
    shapes = np.array([deg.draw_shape(limits, rng) for _ in range(4_000)])
    assert limits[0] <= shapes.min()
    assert shapes.max() <= limits[1]
    assert_share((shapes < 1).sum(), 4_000, below)


@pytest.fixture
def spy(monkeypatch):
    """Replaces functions of the module by recorders of (name, arguments)."""
    calls = []

    def install(name, result):
        def record(*arguments):
            calls.append((name, arguments))
            return result(*arguments)

        monkeypatch.setattr(deg, name, record)

    install.calls = calls
    return install


def test_kernel_kinds_follow_their_odds(spy):
    pulse = np.ones((1, 1))
    spy("squared_distance", lambda *_: pulse)
    for name in ("gaussian_kernel", "plateau_kernel", "sinc_kernel"):
        spy(name, lambda *_: pulse)
    rng, total = generator(5), 12_000
    for _ in range(total):
        Stage().draw_kernel(1.0, rng)
    kinds, isotropic = Counter(), None
    for name, arguments in spy.calls:
        if name == "squared_distance":
            isotropic = arguments[1][0] == arguments[1][1]
        else:
            kinds[name, len(arguments), name == "sinc_kernel" or isotropic] += 1
    order = [("gaussian_kernel", 1), ("gaussian_kernel", 2), ("plateau_kernel", 2)]
    keys = [(*family, same) for family in order for same in (True, False)]
    for key, share in zip(keys, Stage().kernel_odds, strict=True):
        assert_share(kinds[key], total, 0.9 * share)
    assert_share(kinds["sinc_kernel", 2, True], total, 0.1)
    sincs = [arguments for name, arguments in spy.calls if name == "sinc_kernel"]
    lowest = {short: min(c for r, c in sincs if (r < 6) is short) for short in (True, False)}
    assert lowest[True] == pytest.approx(pi / 3, rel=0.05)
    assert lowest[True] >= pi / 3
    assert lowest[False] == pytest.approx(pi / 5, rel=0.05)
    assert lowest[False] >= pi / 5
    assert {r for r, cutoff in sincs if cutoff < pi / 3} == set(range(6, 11))
    assert pi * 0.98 < max(cutoff for _, cutoff in sincs) <= pi


@pytest.mark.parametrize("stage", [Stage(), PUBLISHED_SECOND])
def test_blur_sigmas_scale_with_the_length_factor(spy, stage):
    spy("squared_distance", lambda *_: np.ones((3, 3)))
    rng = generator(6)
    for _ in range(3_000):
        stage.draw_kernel(0.25, rng)
    sigmas = np.array([arguments[1] for _, arguments in spy.calls])
    low, high = np.array(stage.blur_sigma) / 4
    assert low <= sigmas.min() < 1.1 * low + 0.01
    assert 0.99 * high < sigmas.max() <= high
    assert sigmas.mean() == pytest.approx((low + high) / 2, rel=0.03)


@pytest.mark.parametrize(
    ("factor", "sides"),
    [(1.0, set(range(7, 22, 2))), (0.5, {5, 7, 9, 11}), (0.25, {3, 5}), (0.01, {3})],
)
def test_kernel_sides_stay_odd_and_at_least_three(factor, sides):
    rng = generator(7)
    drawn = [Stage().draw_kernel(factor, rng) for _ in range(300)]
    assert {kernel.shape for kernel in drawn} == {(side, side) for side in sides}
    assert all(np.isfinite(kernel).all() for kernel in drawn)


@pytest.mark.parametrize("stage", [Stage(), PUBLISHED_SECOND])
def test_noise_kinds_follow_their_odds_and_limits(spy, stage):
    spy("gaussian_noise", lambda image, *_: image)
    spy("poisson_noise", lambda image, *_: image)
    rng, total, image = generator(8), 8_000, flat(0.5, 2)
    for _ in range(total):
        stage.noise(image, rng)
    kinds = Counter((name, arguments[2]) for name, arguments in spy.calls)
    for name, limits in (("gaussian_noise", "noise_sigma"), ("poisson_noise", "poisson_scale")):
        assert_share(kinds[name, True], total, 0.5 * 0.4)
        assert_share(kinds[name, False], total, 0.5 * 0.6)
        (low, high), drawn = getattr(stage, limits), [a[1] for n, a in spy.calls if n == name]
        assert low <= min(drawn)
        assert max(drawn) <= high
        assert np.mean(drawn) == pytest.approx((low + high) / 2, rel=0.03)


def test_jpeg_qualities_fill_their_limits(spy):
    spy("jpeg", lambda image, _: image)
    rng, image = generator(9), flat(0.5, 2)
    for _ in range(5_000):
        Stage().jpeg(image, rng)
    assert {quality for _, (_, quality) in spy.calls} == set(range(30, 96))


def test_steps_come_in_the_published_order(spy):
    spy("blur", lambda image, _: image)
    spy("resize", lambda _, size, __: np.zeros((*size, 3), np.float32))
    spy("jpeg", lambda image, _: image)
    for name in ("gaussian_noise", "poisson_noise"):
        spy(name, lambda image, *_: image)
    rng, total, image, orders = generator(10), 3_000, picture(), Counter()
    for _ in range(total):
        spy.calls.clear()
        RealESRGAN()(image, rng)
        orders[" ".join(name.removeprefix("gaussian_").removeprefix("poisson_")
                        for name, _ in spy.calls)] += 1  # fmt: skip
    for second, share in (("blur ", 0.8), ("", 0.2)):
        start = f"blur resize noise jpeg {second}resize noise "
        for end in ("resize blur jpeg", "jpeg resize blur"):
            assert_share(orders[start + end], total, share * 0.8 * 0.5)
        for end in ("resize jpeg", "jpeg resize"):
            assert_share(orders[start + end], total, share * 0.2 * 0.5)


def test_final_sinc_cutoffs_fill_their_limits(spy):
    spy("sinc_kernel", lambda radius, _: np.ones((1, 1)))
    degrade = RealESRGAN(first=Stage(sinc_prob=0.0), second=replace(PUBLISHED_SECOND, sinc_prob=0.0))
    rng = generator(15)
    for _ in range(600):
        degrade(picture(16, 16), rng)
    cutoffs = [arguments[1] for _, arguments in spy.calls]
    assert_share(len(cutoffs), 600, 0.8)
    assert pi / 3 <= min(cutoffs) < 0.36 * pi
    assert 0.97 * pi < max(cutoffs) <= pi


def test_no_picture_in_between_is_tiny(spy):
    original = deg.resize
    spy("resize", original)
    rng = generator(11)
    for _ in range(200):
        RealESRGAN()(picture(16, 32), rng)
    sizes = [arguments[1] for _, arguments in spy.calls]
    between = [size for i, size in enumerate(sizes) if i % 3 != 2]  # every third is the final one
    assert min(map(min, between)) == 4
    assert set(sizes[2::3]) == {(4, 8)}


def test_second_resize_refers_to_the_final_size(spy):
    spy("resize", deg.resize)
    rng = generator(12)
    for _ in range(200):
        RealESRGAN()(picture(128, 128), rng)
    first, second = ([a[1][0] for _, a in spy.calls[i::3]] for i in (0, 1))
    assert round(128 * 0.15) <= min(first) < 40
    assert 150 < max(first) <= 192
    assert round(32 * 0.3) <= min(second) < 15
    assert 35 < max(second) <= round(32 * 1.2)


# The whole


@pytest.mark.parametrize(("size", "factor"), [((64, 64), 0.25), ((128, 64), 0.25), ((512, 512), 1.0)])
def test_lengths_shrink_with_small_pictures_only(size, factor):
    assert RealESRGAN().length_factor(*size) == factor
    assert RealESRGAN(reference_size=None).length_factor(*size) == 1.0


def test_the_length_factor_reaches_every_kernel(spy):
    spy("blur", lambda image, _: image)
    for reference, sides in ((256, {3, 5}), (None, set(range(7, 22, 2)))):
        spy.calls.clear()
        rng = generator(13)
        for _ in range(100):
            RealESRGAN(reference_size=reference)(picture(), rng)
        assert {arguments[1].shape[0] for _, arguments in spy.calls} == sides


def test_same_generator_same_picture():
    image = picture()
    before = image.copy()
    outputs = [RealESRGAN()(image, generator(seed)) for seed in (0, 0, 1, 2)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not any(np.array_equal(outputs[0], other) for other in outputs[2:])
    np.testing.assert_array_equal(image, before)


def test_global_random_states_are_neither_read_nor_written():
    outputs = []
    for seed in (1, 2):
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        cv2.setRNGSeed(seed)
        states = (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
        outputs.append([RealESRGAN()(picture(), generator(i)) for i in range(8)])
        assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    np.testing.assert_array_equal(*outputs)


def test_with_everything_switched_off_the_picture_survives():
    quiet = {"blur_prob": 0.0, "resize_odds": (0, 0, 1), "gaussian_prob": 1.0,
             "noise_sigma": (0, 0), "jpeg_quality": (100, 100)}  # fmt: skip
    degrade = RealESRGAN(1, first=Stage(**quiet), second=replace(PUBLISHED_SECOND, **quiet), final_sinc_prob=0.0)
    smooth = deg.blur(picture(), deg.gaussian_kernel(deg.squared_distance(8, (3.0, 3.0))))
    assert np.abs(degrade(smooth, generator()) - smooth).mean() < 0.01


def test_brightness_and_place_are_kept_and_detail_is_lost():
    rng, (y, x) = generator(14), np.mgrid[:64, :64]
    blob = 0.3 + 0.4 * np.exp(-((x - 36) ** 2 + (y - 28) ** 2) / 128)
    image = blob[..., None].repeat(3, -1).astype(np.float32)
    clean = Bicubic()(image, generator())
    outputs = np.stack([RealESRGAN()(image, rng) for _ in range(400)])
    assert outputs.mean() == pytest.approx(clean.mean(), abs=0.005)
    assert np.abs(outputs - clean).mean() > 0.02
    excess = outputs.mean((0, 3)) - 0.3
    centre = [(excess * axis).sum() / excess.sum() for axis in np.mgrid[:16, :16]]
    # pixel 28 of 64 lies at 28.5 / 4 - 0.5 of 16
    assert centre == pytest.approx([6.625, 8.625], abs=0.1)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    scale=st.sampled_from([1, 2, 3, 4, 8]),
    reference=st.sampled_from([None, 64, 256]),
    seed=st.integers(0, 2**32 - 1),
    fill=st.sampled_from([0.0, 0.5, 1.0, None]),
)
def test_output_is_a_picture_of_the_right_size(height, width, scale, reference, seed, fill):
    rng = generator(seed)
    image = rng.random((height * scale, width * scale, 3), dtype=np.float32)
    if fill is not None:
        image[:] = fill
    for degrade in (RealESRGAN(scale, reference), Bicubic(scale)):
        output = degrade(image, rng)
        assert output.shape == (height, width, 3)
        assert output.dtype == np.float32
        assert output.min() >= 0
        assert output.max() <= 1
        np.testing.assert_allclose(output * 255, np.rint(output * 255), atol=1e-3)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("kind", [RealESRGAN, Bicubic])
def test_output_size(kind, scale):
    assert kind(scale)(picture(64, 96), generator()).shape == (64 // scale, 96 // scale, 3)


def cubic_weights(size, scale):
    """Rows of Keys' cubic convolution (a = -0.5), stretched by the scale and renormalised."""
    centres = (np.arange(size // scale)[:, None] + 0.5) * scale - 0.5
    d = np.abs(np.arange(size) - centres) / scale
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    weights = np.where(d < 1, near, np.where(d < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("scale", [2, 4])
def test_bicubic_is_antialiased_cubic_convolution(scale):
    rows, columns = cubic_weights(64, scale), cubic_weights(96, scale)
    expected = np.einsum("yh,xw,hwc->yxc", rows, columns, picture(64, 96)).clip(0, 1)
    output = Bicubic(scale)(picture(64, 96), generator())
    assert np.abs(output - expected).max() < 0.51 / 255


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": 0}, r"scale is 0; allowed: a whole number from 1"),
        ({"scale": 2.0}, r"scale is 2\.0; allowed: a whole number from 1"),
        ({"reference_size": 0}, r"reference_size is 0; "),
        ({"min_side": 0}, r"min_side is 0; "),
        ({"final_sinc_prob": 1.1}, r"final_sinc_prob is 1\.1; allowed: a number in \[0, 1\]"),
        ({"jpeg_last_prob": -0.1}, r"jpeg_last_prob is -0\.1; "),
        ({"final_sinc_lowest": 4.0}, r"final_sinc_lowest is 4\.0; "),
    ],
)
def test_wrong_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        RealESRGAN(**change)


@pytest.mark.parametrize(
    "change",
    [
        {"blur_prob": 1.5},
        {"sinc_prob": -0.1},
        {"gaussian_prob": float("nan")},
        {"grey_prob": 2},
        {"kernel_sides": (8, 21)},
        {"kernel_sides": (1, 21)},
        {"kernel_sides": (21, 7)},
        {"kernel_odds": (0.5, 0.5)},
        {"kernel_odds": (0.45, 0.25, 0.12, 0.03, 0.12, 0.04)},
        {"kernel_odds": (1.5, -0.5, 0, 0, 0, 0)},
        {"blur_sigma": (0.0, 3.0)},
        {"generalised_shape": (4.0, 0.5)},
        {"plateau_shape": (1.0,)},
        {"sinc_lowest": (1.0, 4.0)},
        {"resize_odds": (0.2, 0.7, 0.2)},
        {"resize_range": (1.1, 1.5)},
        {"resize_range": (0.1, 0.9)},
        {"noise_sigma": (-1, 30)},
        {"poisson_scale": (0.05, float("inf"))},
        {"jpeg_quality": (0, 95)},
    ],
)
def test_wrong_stage_arguments_are_named(change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"^{name} is .*; allowed: [^\n]+$"):
        Stage(**change)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture().astype(np.float64), "image's dtype is 'float64'; allowed: float32"),
        (np.zeros((64, 64, 3), np.uint8), "image's dtype is 'uint8'; allowed: float32"),
        (picture()[..., :1], r"image's shape is \(64, 64, 1\); allowed: \(H, W, 3\)"),
        (picture()[..., 0], r"image's shape is \(64, 64\); "),
        (picture(64, 66), r"image's shape is \(64, 66, 3\); .* multiples of scale=4"),
        (picture()[:0], r"image's shape is \(0, 64, 3\); "),
        (picture() * 255, r"image's range is .*; allowed: values in \[0, 1\]"),
        (picture() - 1, r"image's range is "),
        (picture() * np.float32("nan"), r"image's range is \(nan, nan\)"),
    ],
)
@pytest.mark.parametrize("degrade", [RealESRGAN(), Bicubic()])
def test_wrong_pictures_are_named(degrade, image, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        degrade(image, generator())
