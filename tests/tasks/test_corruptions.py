"""Every step of a degradation against scipy, Pillow or its formula."""

import io
from math import sqrt

import numpy as np
import pytest
from little_waves import flat, generator, picture
from PIL import Image
from scipy import ndimage

from mtdiff.tasks.corruptions import RESIZE_MODES, blur, gaussian_noise, jpeg, poisson_noise, quantise, resize
from mtdiff.tasks.kernels import gaussian_kernel, squared_distance

AREA, BILINEAR, BICUBIC = RESIZE_MODES


def test_blur_agrees_with_scipy():
    kernel = gaussian_kernel(squared_distance(3, (2.0, 0.8), 0.5))
    expected = ndimage.convolve(picture().astype(float), kernel[..., None], mode="mirror")
    np.testing.assert_allclose(blur(picture(), kernel), expected, atol=1e-5)


def test_resize_modes_are_what_they_are_called():
    blocks = picture(64, 32).reshape(16, 4, 8, 4, 3)
    shrunk = {mode: resize(picture(64, 32), (16, 8), mode) for mode in RESIZE_MODES}
    np.testing.assert_allclose(shrunk[AREA], blocks.mean((1, 3)), atol=1e-5)
    middle = blocks[:, 1:3, :, 1:3].mean((1, 3))  # bilinear without antialiasing
    np.testing.assert_allclose(shrunk[BILINEAR], middle, atol=1e-5)
    taps = np.array([-0.09375, 0.59375, 0.59375, -0.09375])  # Keys at a half pixel, a = -0.75
    cubic = np.einsum("p,q,ypxqc->yxc", taps, taps, blocks).clip(0, 1)
    np.testing.assert_allclose(shrunk[BICUBIC], cubic, atol=1e-5)


@pytest.mark.parametrize("sigma", [2.0, 10.0, 25.0])
@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_the_sigma_asked_for(sigma, grey):
    noise = gaussian_noise(flat(0.5), sigma, grey, generator()) - 0.5
    assert noise.std(axis=(0, 1)) * 255 == pytest.approx([sigma] * 3, rel=0.03)
    assert np.abs(noise.mean()) * 255 < 5 * sigma / 160
    correlation = np.corrcoef(noise.reshape(-1, 3).T)[np.triu_indices(3, 1)]
    np.testing.assert_allclose(correlation, 1.0 if grey else 0.0, atol=0.035)


@pytest.mark.parametrize("scale", [0.1, 1.0, 2.0])
@pytest.mark.parametrize("value", [0.25, 0.5])
def test_poisson_noise_grows_with_scale_and_brightness(scale, value):
    noisy = poisson_noise(flat(value), scale, False, generator())
    assert noisy.mean() == pytest.approx(value, abs=0.002)
    assert noisy.std(axis=(0, 1)) == pytest.approx([scale * sqrt(value / 256)] * 3, rel=0.03)


def test_poisson_noise_follows_the_photon_count():
    noisy = poisson_noise(flat(0.5), 1.0, False, generator(), photons=1024.0)
    assert noisy.std() == pytest.approx(sqrt(0.5 / 1024), rel=0.03)


def test_grey_poisson_noise_is_equal_over_channels_and_set_by_the_luma():
    colours = flat(1.0) * np.float32([0.6, 0.3, 0.5])
    noise = poisson_noise(colours, 1.0, True, generator()) - colours
    np.testing.assert_allclose(noise, noise[..., :1].repeat(3, -1), atol=1e-6)
    luma = 0.299 * 0.6 + 0.587 * 0.3 + 0.114 * 0.5
    assert noise.std() == pytest.approx(sqrt(luma / 256), rel=0.03)


def test_jpeg_gets_better_with_quality():
    errors = [np.abs(jpeg(picture(), q) - picture()).mean() for q in (5, 30, 60, 95)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 2 * errors[-1]


@pytest.mark.parametrize("quality", [30, 95])
def test_jpeg_agrees_with_pillow(quality):
    stored = io.BytesIO()
    levels = np.rint(picture() * 255).astype(np.uint8)
    Image.fromarray(levels).save(stored, "JPEG", quality=quality, subsampling="4:2:0")
    expected = np.asarray(Image.open(stored), np.float32) / 255
    assert np.abs(jpeg(picture(), quality) - expected).mean() < 1 / 255


def test_quantise_keeps_256_levels():
    levels = np.arange(256, dtype=np.float32) / 255
    np.testing.assert_array_equal(quantise(levels + np.float32(0.4 / 255)), levels)
