"""Intervals: over examples by resampling, over seeds by Student's t. NumPy alone, so that tables stay light.

Every function takes its own generator: the same key (`mtdiff.rng.numpy_rng`) gives the same interval.
Percentile bootstrap: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.95
POWER = 1.43
"""(1.960 + 0.842) / 1.960: a true difference of so many half intervals is found at 5 % in 80 of 100 such studies."""
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
    """mean(a - b) over n examples; p: two-sided, for a difference of zero."""

    p: float = 1.0
    n: int = 0

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that four of five such studies would find, by this one's interval."""
        return None if self.low is None or self.high is None else POWER * (self.high - self.low) / 2


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
    """mean(a - b) of two methods' scores on the same examples: (examples,), or (seeds, examples) with seeds paired too.

    One seed: percentile bootstrap over examples, which says nothing about other seeds; p is twice the smaller share of
    resampled means on either side of zero, never below 2 / (resamples + 1). Several seeds: see `_compare_crossed`; one
    column then is a number of the whole set for each seed, and the test is Student's paired one. An example that is
    NaN throughout (the metric does not apply to it) is left out.
    """
    d = _differences(a, b)
    seeds, examples = d.shape
    if d.size == 1:
        return Difference(float(d[0, 0]), n=1)
    if seeds > 1:
        return _compare_crossed(d, level)
    draws = _means(d[0], rng, resamples)
    tail = min((draws <= 0).sum(), (draws >= 0).sum())
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    return Difference(float(d.mean()), *_percentiles(draws, level), p=float(p), n=examples)


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    """a - b as (seeds, examples), without the examples that are NaN throughout."""
    x, y = (np.atleast_2d(np.asarray(v, np.float64)) for v in (a, b))
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(f"paired scores: expected the same shape in a and b, got {np.shape(a)} and {np.shape(b)}")
    applies = ~(np.isnan(x) & np.isnan(y)).all(0)
    x, y = x[:, applies], y[:, applies]
    if not x.size or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError(f"paired scores: expected finite numbers of some examples, got shapes {x.shape}")
    return x - y


def _compare_crossed(d: NDArray[np.float64], level: float) -> Difference:
    """Differences d (S, E) with seeds and examples both random and crossed: t interval of their grand mean.

    d_se = mu + seed_s + example_e + noise_se. The variance of the mean is (MS_S + MS_E - MS_SE) / (S E), with degrees
    of freedom after Satterthwaite (Biometrics Bulletin 1946), but no smaller than MS_SE alone makes it.
    """
    from scipy.special import stdtr, stdtrit  # slow to import, and needed here only

    seeds, examples = d.shape
    mean, rows, columns = d.mean(), d.mean(1), d.mean(0)
    of_seeds = examples * rows.var(ddof=1)
    if examples == 1:
        variance, freedom = of_seeds / seeds, float(seeds - 1)
    else:
        of_examples = seeds * columns.var(ddof=1)
        free = (seeds - 1) * (examples - 1)
        rest = ((d - rows[:, None] - columns + mean) ** 2).sum() / free
        total = max(of_seeds + of_examples - rest, rest)
        spent = of_seeds**2 / (seeds - 1) + of_examples**2 / (examples - 1) + rest**2 / free
        variance = total / d.size
        freedom = float(total**2 / spent) if spent > 0 else float(free)
    if variance == 0:
        return Difference(float(mean), float(mean), float(mean), p=float(mean == 0), n=examples)
    deviation = float(np.sqrt(variance))
    half = float(stdtrit(freedom, (1 + level) / 2)) * deviation
    p = 2 * float(stdtr(freedom, -abs(mean) / deviation))
    return Difference(float(mean), float(mean - half), float(mean + half), p=p, n=examples)


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
    value: float | None = None,
) -> Interval:
    """A number that belongs to a whole set, such as a Fréchet distance: `statistic(indices of examples)`.

    A resample repeats examples, which biases such a statistic (Fréchet distance: upwards). The percentiles are
    therefore shifted by (value - mean of the resamples): the interval shows the spread around the value, and does
    not remove the bias that the value itself has at this n. least: below it there are no values, so no bound either.
    value: where the number itself is another estimate of the same thing; else the statistic of all examples once.
    """
    value = statistic(np.arange(n)) if value is None else value
    draws = np.array([statistic(index) for index in resamplings(n, rng, resamples)])
    low, high = _percentiles(draws - draws.mean(), level)
    return Interval(value, max(least, value + low), value + high)
