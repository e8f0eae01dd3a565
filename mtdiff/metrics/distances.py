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
    return np.asarray(np.linalg.qr((x - x.mean(0)) / np.sqrt(len(x) - 1), mode="r"))


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
    """Unbiased squared kernel distance of independent sets, mean over subsets (Bińkowski et al., arXiv 1801.01401).

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
    """clean-fid's formula for two independent sets of one size m."""
    m = len(x)
    within = polynomial_kernel(x, x) + polynomial_kernel(y, y)
    return float((within.sum() - np.trace(within)) / (m * (m - 1)) - 2 * polynomial_kernel(x, y).mean())


def kid_resampled(a: ArrayLike, b: ArrayLike) -> Callable[[ArrayLike], float]:
    """`kid` of whole sets, features (n, D) each, as a function of how often each pair is drawn, (n,).

    For the spread alone: a repeated picture is taken for two, which adds a constant on average.
    """
    x, y = _features(a, "a"), _features(b, "b")
    within, cross = polynomial_kernel(x, x) + polynomial_kernel(y, y), polynomial_kernel(x, y)
    diagonal = np.diag(within)

    def distance(counts: ArrayLike) -> float:
        w = np.asarray(counts, np.float64)
        m = w.sum()
        return float((w @ within @ w - w @ diagonal) / (m * (m - 1)) - 2 * (w @ cross @ w) / m**2)

    return distance


def paired_kid(a: ArrayLike, b: ArrayLike) -> Callable[[ArrayLike], float]:
    """The same distance for pairs, features (n, D) each: row i of `a` and of `b` belong to one example.

    An output resembles the truth of its own example, which makes `kid` too small by O(1/n). Here the kernel between an
    example and itself is left out on every side (Gretton et al., JMLR 13, 2012, eq. 4): unbiased, and exactly 0 for
    equal sets. Returned as a function of how often each example is drawn, (n,) -> distance, ones for the sets
    themselves; so the kernels are computed once, and repeats in a resample add no bias.
    """
    x, y = _features(a, "a"), _features(b, "b")
    cross = polynomial_kernel(x, y)
    h = polynomial_kernel(x, x) + polynomial_kernel(y, y) - cross - cross.T  # (n, n)
    np.fill_diagonal(h, 0)

    def distance(counts: ArrayLike) -> float:
        w = np.asarray(counts, np.float64)
        return float(w @ h @ w / (w.sum() ** 2 - (w**2).sum()))

    return distance
