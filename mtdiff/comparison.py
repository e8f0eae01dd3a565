"""Is one model better than another on the same examples, noise and seeds? NumPy alone, so that tables stay light.

Letters: S seeds, n examples; d (S, n) differences of scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtdiff.metrics.bootstrap import LEVEL, Interval

Scores = Mapping[int, Sequence[float | None]]
"""Scores of the same examples by training seed."""


@dataclass(frozen=True)
class Paired(Interval):
    """mean(a - b) with its interval; p: two-sided, for a difference of zero, over `seeds` seeds and n examples."""

    p: float = 1.0
    seeds: int = 0
    n: int = 0


def paired(a: Scores, b: Scores, level: float = LEVEL) -> Paired | None:
    """a - b over the seeds that both have; None where there is no such seed, or fewer than 2 shared examples.

    With one seed the answer is about these two trained models; with more it is about their methods.
    """
    seeds = [seed for seed in a if seed in b]
    if not seeds or len({len(scores[seed]) for scores in (a, b) for seed in seeds}) != 1:
        return None
    d = np.array([a[s] for s in seeds], np.float64) - np.array([b[s] for s in seeds], np.float64)  # (S, n)
    d = d[:, np.isfinite(d).all(0)]
    return crossed(d, level) if d.shape[1] > 1 else None


def crossed(d: NDArray[np.float64], level: float = LEVEL) -> Paired:
    """The mean of d (S, n) where both seeds and examples are draws from many: a crossed two-way random model.

    Its variance is (MS_seeds + max(MS_examples - MS_rest, 0)) / (S n), with the degrees of freedom of Hillis (Stat.
    Med. 26:596, 2007), who treats readers and cases so. One seed: the paired t test over examples.
    """
    from scipy.special import stdtr, stdtrit  # slow to import, and needed here only

    seeds, n = d.shape
    mean = float(d.mean())
    if seeds == 1:
        square, freedom = d.var(ddof=1) / n, float(n - 1)
    else:
        by_seed, by_example = d.mean(1), d.mean(0)
        ms_seeds = n * by_seed.var(ddof=1)
        ms_examples = seeds * by_example.var(ddof=1)
        rest = d - by_seed[:, None] - by_example[None, :] + mean
        ms_rest = (rest**2).sum() / ((seeds - 1) * (n - 1))
        joint = ms_seeds + max(ms_examples - ms_rest, 0.0)
        square = joint / (seeds * n)
        freedom = min((seeds - 1) * (joint / ms_seeds) ** 2, 1e6) if ms_seeds > 0 else 1e6
    error = float(np.sqrt(square))
    if error == 0:
        return Paired(mean, mean, mean, p=float(mean == 0), seeds=seeds, n=n)
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    p = float(2 * stdtr(freedom, -abs(mean) / error))
    return Paired(mean, mean - half, mean + half, p=p, seeds=seeds, n=n)
