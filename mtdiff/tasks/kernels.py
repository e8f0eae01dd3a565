"""Blur kernels (k, k) that sum to 1, k odd and radius (k - 1) / 2; equations of Real-ESRGAN (arXiv 2107.10833)."""

from math import pi

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

Kernel = NDArray[np.float64]
Pair = tuple[float, float]


def squared_distance(radius: int, sigmas: Pair, angle: float = 0.0) -> Kernel:
    """C^T Sigma^-1 C on the (k, k) grid, Sigma = R diag(sigma^2) R^T (Sec. 3.1, Eq. 2 and 3).

    The first sigma lies along x turned by `angle` towards y (rows grow downwards).
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    along = (np.cos(angle) * x + np.sin(angle) * y) / sigmas[0]
    across = (np.cos(angle) * y - np.sin(angle) * x) / sigmas[1]
    return np.asarray(along**2 + across**2)


def gaussian_kernel(distance: Kernel, shape: float = 1.0) -> Kernel:
    """Gaussian of a squared distance (Eq. 2), generalised by beta = `shape`; a pulse if tiny."""
    kernel = np.exp(-0.5 * distance**shape)
    return np.asarray(kernel / kernel.sum())


def plateau_kernel(distance: Kernel, shape: float = 1.0) -> Kernel:
    """1 / (1 + distance^beta), flatter on top for a larger beta = `shape` (Sec. 3.1)."""
    kernel = 1 / (1 + distance**shape)
    return np.asarray(kernel / kernel.sum())


def sinc_kernel(radius: int, cutoff: float) -> Kernel:
    """Circular low-pass at `cutoff` radians per pixel, cut to (k, k) so it rings (Sec. 3.3)."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    distance = np.hypot(x, y)
    distance[radius, radius] = 1.0  # anything but 0: the centre is set to its limit below
    kernel = cutoff * j1(cutoff * distance) / (2 * pi * distance)
    kernel[radius, radius] = cutoff**2 / (4 * pi)
    return np.asarray(kernel / kernel.sum())
