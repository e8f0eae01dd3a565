"""Blur kernels against their variances, angles and Fourier integrals."""

from math import gamma, hypot, pi

import numpy as np
import pytest
from little_waves import picture

from mtdiff.tasks.corruptions import blur
from mtdiff.tasks.kernels import gaussian_kernel, plateau_kernel, sinc_kernel, squared_distance


def covariance(kernel):
    radius = kernel.shape[0] // 2
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return np.array([[(kernel * a * b).sum() for a in (x, y)] for b in (x, y)])


@pytest.mark.parametrize("radius", [1, 3, 10])
@pytest.mark.parametrize("shape", [0.5, 1.0, 4.0])
def test_kernels_sum_to_one_and_are_point_symmetric(radius, shape):
    distance = squared_distance(radius, (0.7, 2.0), 0.4)
    kernels = [gaussian_kernel(distance, shape), plateau_kernel(distance, shape)]
    for kernel in [*kernels, sinc_kernel(radius, shape)]:
        assert kernel.shape == (2 * radius + 1, 2 * radius + 1)
        assert kernel.sum() == pytest.approx(1)
        np.testing.assert_allclose(kernel, kernel[::-1, ::-1], atol=1e-12)


@pytest.mark.parametrize("sigma", [0.8, 1.5, 3.0])
def test_isotropic_gaussian_has_the_variance_asked_for(sigma):
    kernel = gaussian_kernel(squared_distance(20, (sigma, sigma), 1.2))
    np.testing.assert_allclose(covariance(kernel), sigma**2 * np.eye(2), atol=1e-3)


@pytest.mark.parametrize("angle", [0.0, 0.6, pi / 2])
def test_anisotropic_gaussian_lies_along_its_angle(angle):
    kernel = gaussian_kernel(squared_distance(25, (4.0, 1.5), angle))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    np.testing.assert_allclose(covariance(kernel), turn @ np.diag([16, 2.25]) @ turn.T, atol=1e-3)


@pytest.mark.parametrize("shape", [0.5, 2.0, 4.0])
def test_generalised_gaussian_has_the_analytic_variance(shape):
    kernel = gaussian_kernel(squared_distance(150, (5.0, 5.0)), shape)
    # the plane integral of r^2 exp(-r^(2 beta) / 2), half of it per axis
    expected = 25 * 2 ** (1 / shape) * gamma(2 / shape) / gamma(1 / shape) / 2
    np.testing.assert_allclose(covariance(kernel), expected * np.eye(2), rtol=0.01, atol=1e-3)


@pytest.mark.parametrize("shape", [1.0, 1.5, 2.0])
def test_plateau_falls_to_half_at_one_sigma_and_follows_its_power(shape):
    kernel = plateau_kernel(squared_distance(8, (4.0, 2.0)), shape)
    centre = kernel[8, 8]
    assert kernel[8, 12] == pytest.approx(centre / 2)  # one sigma along x
    assert kernel[10, 8] == pytest.approx(centre / 2)  # one sigma along y
    assert kernel[8, 16] == pytest.approx(centre / (1 + 4**shape))


def test_tiny_sigmas_leave_the_picture_alone():
    kernel = gaussian_kernel(squared_distance(1, (0.05, 0.05)))
    np.testing.assert_array_equal(blur(picture(), kernel), picture())


def test_sinc_is_the_fourier_integral_of_a_disc():
    cutoff, radius = 1.3, 4
    frequency = (np.arange(400) + 0.5) * cutoff / 400
    turn = (np.arange(64) + 0.5) * 2 * pi / 64
    waves = frequency[:, None] * np.cos(turn)
    offsets = range(-radius, radius + 1)
    distances = [[hypot(x, y) for x in offsets] for y in offsets]
    integral = np.array([[(frequency[:, None] * np.cos(waves * r)).sum() for r in row] for row in distances])
    expected = integral / integral.sum()
    np.testing.assert_allclose(sinc_kernel(radius, cutoff), expected, atol=1e-5)


@pytest.mark.parametrize("cutoff", [pi / 5, pi / 3, 0.7 * pi])
def test_sinc_passes_low_and_stops_high_frequencies(cutoff):
    response = np.abs(np.fft.fft2(sinc_kernel(60, cutoff)))
    axis = np.abs(2 * pi * np.fft.fftfreq(121))
    frequency = np.hypot(axis[:, None], axis)
    assert np.abs(response[frequency < 0.85 * cutoff] - 1).max() < 0.1
    assert response[(frequency > 1.15 * cutoff) & (frequency < pi)].max() < 0.1


def test_a_short_sinc_rings_at_an_edge():
    step = np.full((32, 32, 3), 0.25, np.float32)
    step[:, 16:] = 0.75
    blurred = blur(step, sinc_kernel(10, pi / 3))
    assert blurred.max() > 0.78
    assert blurred.min() < 0.22
