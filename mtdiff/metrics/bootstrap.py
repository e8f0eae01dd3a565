"""Intervals: over examples by resampling, over seeds by Student's t. NumPy alone, so that tables stay light.

Every function takes its own generator: the same key (`mtdiff.rng.numpy_rng`) gives the same interval.
Percentile bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
RESAMPLES = 2000
_CHUNK = 4_000_000  # indices drawn at once, to bound memory


@dataclass(frozen=True)
class Interval:
    """An estimate and its bounds; no bounds where too few values leave the spread unknown."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference(Interval):
    """mean(a - b) over n pairs; p: two-sided, for a difference of zero."""

    p: float = 1.0
    n: int = 0


def _finite(values: ArrayLike, name: str) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or not len(array) or not np.isfinite(array).all():
        raise ValueError(f"{name}: expected a non-empty row of finite numbers, got shape {array.shape}")
    return array


def _means(values: NDArray[np.float64], rng: np.random.Generator, resamples: int) -> NDArray[np.float64]:
    """Means of `resamples` draws with replacement, (R,)."""
    n, rows = len(values), max(1, _CHUNK // len(values))
    sizes = [min(rows, resamples - start) for start in range(0, resamples, rows)]
    return np.concatenate([values[rng.integers(n, size=(size, n))].mean(1) for size in sizes])


def _percentiles(draws: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(
    values: ArrayLike, rng: np.random.Generator, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """The mean of (n,) values with its percentile interval over examples. One value has no interval."""
    x = _finite(values, "values")
    if len(x) == 1:
        return Interval(float(x[0]))
    return Interval(float(x.mean()), *_percentiles(_means(x, rng, resamples), level))


def paired_difference(
    a: ArrayLike, b: ArrayLike, rng: np.random.Generator, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> Difference:
    """mean(a - b) of two models' scores on the same n examples, in the same order.

    p is twice the smaller share of resampled means on either side of zero, never below 2 / (resamples + 1).
    """
    x, y = _finite(a, "a"), _finite(b, "b")
    if len(x) != len(y):
        raise ValueError(f"paired scores: expected as many in a as in b, got {len(x)} and {len(y)}")
    d = x - y
    if len(d) == 1:
        return Difference(float(d[0]), n=1)
    draws = _means(d, rng, resamples)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Difference(float(d.mean()), *_percentiles(draws, level), p=float(p), n=len(d))


def seed_interval(values: ArrayLike, *, level: float = LEVEL) -> Interval:
    """The mean over seeds with Student's t interval, k - 1 degrees of freedom. One seed has no interval."""
    from scipy.special import stdtrit  # slow to import, and needed here only

    x = _finite(values, "values")
    mean, k = float(x.mean()), len(x)
    if k == 1:
        return Interval(mean)
    half = float(stdtrit(k - 1, (1 + level) / 2) * x.std(ddof=1) / np.sqrt(k))
    return Interval(mean, mean - half, mean + half)


def resamplings(n: int, rng: np.random.Generator, resamples: int) -> Iterator[NDArray[np.int64]]:
    """Draws of n examples with replacement, (n,) each."""
    yield from (rng.integers(n, size=n) for _ in range(resamples))


def set_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    n: int,
    rng: np.random.Generator,
    *,
    resamples: int = 100,
    level: float = LEVEL,
    least: float = -np.inf,
) -> Interval:
    """A number that belongs to a whole set, such as a Fréchet distance: `statistic(indices of examples)`.

    A resample repeats examples, which biases such a statistic (Fréchet distance: upwards). The percentiles are
    therefore shifted by (value - mean of the resamples): the interval shows the spread around the value, and does
    not remove the bias that the value itself has at this n. least: below it there are no values, so no bound either.
    """
    value = statistic(np.arange(n))
    draws = np.array([statistic(index) for index in resamplings(n, rng, resamples)])
    low, high = _percentiles(draws - draws.mean(), level)
    return Interval(value, max(least, value + low), value + high)
