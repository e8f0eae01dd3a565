"""Distances between two sets of feature vectors: Fréchet and kernel, as clean-fid computes them.

Both are named after their features (`fd_alexnet`, `kid_alexnet`); they are FID and KID only on Inception features.

Letters: n m number of pictures, D width of a feature vector.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


def _features(x: ArrayLike, name: str) -> Matrix:
    array = np.asarray(x, np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"{name}: expected features (n, D) of at least two pictures, got shape {array.shape}")
    return array


def _factor(x: Matrix) -> Matrix:
    """R (min(n, D), D) with R^T R = the unbiased covariance of x (n, D)."""
    return np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1), mode="r")


def frechet(a: ArrayLike, b: ArrayLike) -> float:
    """Fréchet distance of the Gaussians fitted to features (n, D) and (m, D) (Heusel et al., arXiv 1706.08500).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), unbiased covariances, float64. With S = R^T R the trace of the
    root is the sum of the singular values of R_a R_b^T: real and exact also when n <= D, where `sqrtm` struggles.
    Its bias falls with n and is large while n is not well above D: compare only at equal n.
    """
    x, y = _features(a, "a"), _features(b, "b")
    shift, root_x, root_y = x.mean(0) - y.mean(0), _factor(x), _factor(y)
    cross = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    return float(shift @ shift + (root_x**2).sum() + (root_y**2).sum() - 2 * cross)


def polynomial_kernel(a: Matrix, b: Matrix) -> Matrix:
    """(n, D), (m, D) -> (n, m): (x.y / D + 1)^3, KID's kernel."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def kid(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, *, subsets: int = 100, subset_size: int = 1000) -> float:
    """Unbiased squared kernel distance, mean over random subsets (Bińkowski et al., arXiv 1801.01401).

    Sets of one size, no larger than a subset, are used whole and once: every subset would give the same number.
    May be slightly negative. `rng` is anything with NumPy's `choice`.
    """
    x, y = _features(a, "a"), _features(b, "b")
    size = min(len(x), len(y), subset_size)
    if len(x) == len(y) == size:
        return _distance(x, y)
    draws = ((rng.choice(len(y), size, replace=False), rng.choice(len(x), size, replace=False)) for _ in range(subsets))
    return float(np.mean([_distance(x[i], y[j]) for j, i in draws]))


def _distance(x: Matrix, y: Matrix) -> float:
    ones = np.ones(len(x))
    return kernel_resampler(x, y)(ones)


def kernel_resampler(a: ArrayLike, b: ArrayLike) -> Callable[[NDArray[np.float64]], float]:
    """For two sets of n: how often each place is drawn, (n,) -> squared kernel distance. The kernels are computed once.

    A pair of two copies of one picture is left out, so a resample gains no bias from repeating it.
    """
    x, y = _features(a, "a"), _features(b, "b")
    within = polynomial_kernel(x, x) + polynomial_kernel(y, y)
    np.fill_diagonal(within, 0)
    between = polynomial_kernel(x, y)

    def distance(counts: NDArray[np.float64]) -> float:
        total = counts.sum()
        pairs = total**2 - (counts**2).sum()
        return float(counts @ within @ counts / pairs - 2 * (counts @ between @ counts) / total**2)

    return distance
