"""Is one model better than another on the same examples, noise and seeds? NumPy alone, so that tables stay light."""

from collections.abc import Mapping, Sequence

import numpy as np

from mtdiff.results.intervals import Difference, paired_difference

Scores = Mapping[int, Sequence[float | None]]
"""Scores of the same examples by training seed; None where the metric does not apply to an example."""


def compare_paired(a: Scores, b: Scores) -> Difference | None:
    """a - b over the seeds that both have; None where there is no such seed, or fewer than 2 shared examples.

    With one seed the answer is about these two trained models; with more it is about their methods.
    """
    seeds = [seed for seed in a if seed in b]
    if not seeds or len({len(scores[seed]) for scores in (a, b) for seed in seeds}) != 1:
        return None
    x, y = (np.array([scores[seed] for seed in seeds], np.float64) for scores in (a, b))  # (seeds, examples)
    shared = np.isfinite(x).all(0) & np.isfinite(y).all(0)
    if shared.sum() < 2:
        return None
    return paired_difference(x[:, shared], y[:, shared], np.random.default_rng(0))
