"""Aspect buckets: training pictures in a few shapes of about equal area, each cut to the nearest one.

    data.buckets=[0.75,1,1.333]      ratios of width to height

Batches have one shape each. Step s of all ranks together, whose examples are numbers s * joint and on, takes the bucket
that a `Cycle` over the buckets' shares of the records gives, and mixes tasks from that bucket's records as ever. In
each bucket every task and kind of record has the share of its own records that lie there, so over the whole run tasks
keep their weights and each record is seen equally often, to a thousandth of a run.
"""

from collections.abc import Mapping, Sequence
from math import isfinite, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from mtdiff.data.mixture import Cycle, Stream
from mtdiff.data.shares import fine_counts
from mtdiff.data.source import Source
from mtdiff.rng import number
from mtdiff.tasks.base import Task
from mtdiff.types import Example, Need

FEWEST = 0.005
"""Buckets with a smaller share of the records are left out; their pictures go to the nearest other."""
WIDEST = 4.0


class Shape(NamedTuple):
    height: int
    width: int

    @property
    def ratio(self) -> float:
        return self.width / self.height

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


def shapes(size: int, ratios: Sequence[float], step: int) -> list[Shape]:
    """Sides nearest to the ratios, multiples of `step`, with an area of about size x size. ValueError names the key."""
    if step < 8 or step % 8 or size % step:
        raise ValueError(f"data.bucket_step={step}: expected a multiple of 8 that divides data.size={size}")
    if not ratios:
        raise ValueError("data.buckets=[]: expected ratios of width to height, or null for squares")
    found: list[Shape] = []
    for ratio in ratios:
        if isinstance(ratio, bool) or not isfinite(ratio) or not 1 / WIDEST <= ratio <= WIDEST:
            raise ValueError(f"data.buckets={list(ratios)}: expected ratios of width to height from 0.25 to 4")
        height, width = (max(step, round(side / step) * step) for side in (size / sqrt(ratio), size * sqrt(ratio)))
        if Shape(height, width) in found:
            raise ValueError(
                f"data.buckets={list(ratios)}: {ratio} comes to {width}x{height} again with data.bucket_step={step}"
            )
        found.append(Shape(height, width))
    return sorted(found, key=lambda shape: shape.ratio)


def nearest(shapes: Sequence[Shape], ratios: NDArray[np.float64]) -> NDArray[np.int64]:
    """The shape, by number, whose ratio is nearest to each of `ratios`, which are logarithms."""
    own = np.log([shape.ratio for shape in shapes])
    return np.abs(ratios[:, None] - own).argmin(1)


def select_filled(shapes: Sequence[Shape], ratios: NDArray[np.float64]) -> list[Shape]:
    """The shapes that hold at least FEWEST of the pictures; the fullest in any case."""
    counts = np.bincount(nearest(shapes, ratios), minlength=len(shapes))
    least = min(FEWEST * len(ratios), counts.max())
    return [shape for shape, count in zip(shapes, counts, strict=True) if count >= max(1, least)]


class Bucket:
    """The endless examples of one shape. weights: of the tasks, in the whole run."""

    def __init__(
        self, source: Source, tasks: Sequence[Task], weights: Sequence[float], total: Mapping[Need, int], seed: int
    ) -> None:
        self.streams: dict[int, Stream] = {}  # by the task's index in the run
        shares: dict[str, float] = {}
        for k, (task, weight) in enumerate(zip(tasks, weights, strict=True)):
            held = {n: share * source.size(n, "train") / total[n] for n, share in task.needs.items()}
            needs = {need: share for need, share in held.items() if share > 0}
            if needs:
                self.streams[k] = Stream(source, task, "train", seed, needs)
                shares[task.name] = weight * sum(needs.values())
        self.share = sum(shares.values())
        self.cycle = Cycle(shares, (seed, "train", "tasks"), fine_counts) if shares else None

    def example(self, i: int) -> Example:
        assert self.cycle is not None
        place, n = self.cycle.at(i)
        k = list(self.streams)[place]
        return self.streams[k].example(n, k)


class BucketedMixture(Dataset[Example]):
    """The endless examples of a run, `joint` at a time from one bucket: a pure function of (seed, joint, i).

    sources: the buckets (`Source.buckets`). joint: examples of one step of all ranks, which the loader sets.
    """

    def __init__(self, sources: Sequence[Source], tasks: Sequence[Task], weights: Sequence[float], seed: int) -> None:
        self.joint = 1
        total = {n: sum(s.size(n, "train") for s in sources) for task in tasks for n in task.needs}
        seeds = [number(seed, "bucket", k) for k in range(len(sources))]
        made = (Bucket(s, tasks, weights, total, own) for s, own in zip(sources, seeds, strict=True))
        self.buckets = [bucket for bucket in made if bucket.share > 0]
        shares = {str(k): bucket.share for k, bucket in enumerate(self.buckets)}
        self.cycle = Cycle(shares, (seed, "train", "buckets"), fine_counts)

    def __getitem__(self, i: int) -> Example:
        if i < 0:
            raise IndexError(f"i={i}: examples are numbered 0, 1, 2, ...")
        step, place = divmod(i, self.joint)
        k, before = self.cycle.at(step)
        return self.buckets[k].example(before * self.joint + place)
