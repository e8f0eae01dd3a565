"""Which example comes when: every task a stream of its own, and streams mixed in fixed shares.

Everything is addressed by number and nothing has a state, so batches depend neither on workers nor on ranks, and a run
resumes anywhere. i numbers the examples of a run, n those of one task:

    i -> (task, n)          `Cycle` over the tasks, in shares of their weights
    n -> (need, m)          `Cycle` over the kinds of record the task needs
    m -> (epoch, index)     an order of the source's records per epoch (`Source.order`)
    (seed, split, task name, need, epoch, index) -> what the source and the task draw freely

So the n-th example of a task does not depend on the other tasks or on the weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from mtdiff.data.shares import cycle_counts, fine_counts
from mtdiff.data.source import Source
from mtdiff.rng import number, numpy_rng
from mtdiff.tasks.base import Task
from mtdiff.types import SPLITS, Example, Need, Split

Counts = Callable[[Mapping[str, float]], list[int]]


class Cycle:
    """An endless order of several kinds: every `length` numbers hold kind k `counts[k]` times, shuffled by `key`."""

    def __init__(self, weights: Mapping[str, float], key: tuple[int | str, ...], counts: Counts = cycle_counts) -> None:
        self.counts, self.key = counts(weights), key
        self.kinds = np.repeat(np.arange(len(self.counts)), self.counts)
        self.length = len(self.kinds)

    def at(self, i: int) -> tuple[int, int]:
        """Number i -> its kind k, and how many of kind k come before it."""
        if len(self.counts) == 1:
            return 0, i
        cycle, place = divmod(i, self.length)
        order = numpy_rng(*self.key, cycle).permutation(self.kinds)
        kind = int(order[place])
        return kind, cycle * self.counts[kind] + int(np.count_nonzero(order[:place] == kind))


@dataclass(frozen=True)
class Draw:
    """Which record of the source an example is made of."""

    need: Need
    epoch: int
    index: int


class Stream:
    """The endless examples of one task: the n-th depends on source, task, split, seed and n alone.

    An epoch shows each record of a need once, in an order of its own.
    needs: shares of the kinds of record where they are not the task's own (`buckets`).
    """

    def __init__(
        self, source: Source, task: Task, split: Split, seed: int, needs: Mapping[Need, float] | None = None
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
        self.source, self.task, self.split = source, task, split
        self.key = (seed, split, task.name)
        shares, counts = (task.needs, cycle_counts) if needs is None else (needs, fine_counts)
        self.needs: list[Need] = list(shares)
        self.cycle = Cycle({str(need): share for need, share in shares.items()}, (*self.key, "needs"), counts)
        self.sizes = {need: source.size(need, split) for need in self.needs}
        self._orders: dict[Need, tuple[int, NDArray[np.int64]]] = {}  # need -> epoch, permutation last used
        for need, size in self.sizes.items():
            if size < 1:
                lacks = f"{task.name!r} needs {need!r} records, of which the data has none in {split!r}"
                raise ValueError(f"tasks: {lacks}; leave it out with tasks=[...]")
        check_references(source, task, split)

    def draw(self, n: int) -> Draw:
        kind, m = self.cycle.at(n)
        need = self.needs[kind]
        epoch, place = divmod(m, self.sizes[need])
        return Draw(need, epoch, int(self._order(need, epoch)[place]))

    def example(self, n: int, task_id: int) -> Example:
        draw = self.draw(n)
        rng = numpy_rng(*self.key, draw.need, draw.epoch, draw.index)
        record = self.source.record(draw.need, self.split, draw.index, rng)
        seed = number(*self.key, draw.need, draw.epoch, draw.index, "training")
        return replace(self.task.make(record, rng, task_id), seed=seed)

    def first_epoch(self, most: int) -> int:
        """How many examples come before any record is repeated, counted up to `most`."""
        return sum(1 for _ in takewhile(lambda n: self.draw(n).epoch == 0, range(most)))

    def _order(self, need: Need, epoch: int) -> NDArray[np.int64]:
        if need not in self._orders or self._orders[need][0] != epoch:
            rng = numpy_rng(*self.key, need, epoch, "order")
            self._orders[need] = epoch, self.source.order(need, self.split, rng)
        return self._orders[need][1]


def check_references(source: Source, task: Task, split: Split) -> None:
    """Refuse a task that shows references which no record of the data has."""
    for need in task.needs:
        known = source.reference_names(need, split)
        for name in task.shows:
            if name not in known:
                there = f"the data has {', '.join(known) or 'none'} in {split!r}"
                raise ValueError(f"task.{task.name}.reference={name}: no such reference pictures, {there}")


def streams(source: Source, tasks: Sequence[Task], split: Split, seed: int) -> list[Stream]:
    names = [task.name for task in tasks]
    if not tasks:
        raise ValueError("tasks=[]: expected at least one task")
    if len(set(names)) < len(names):
        raise ValueError(f"tasks={names!r}: expected names that differ")
    return [Stream(source, task, split, seed) for task in tasks]


class Mixture(Dataset[Example]):
    """The endless examples of a run: `mixture[i]` for i = 0, 1, 2, ... is a pure function of (seed, split, i).

    weights: one positive number per task; shares are rounded to a cycle by `counts`, whose order is shuffled.
    `Example.task` is the index in `tasks`.
    """

    def __init__(
        self,
        source: Source,
        tasks: Sequence[Task],
        weights: Sequence[float],
        split: Split = "train",
        seed: int = 0,
        counts: Counts = cycle_counts,
    ) -> None:
        self.streams = streams(source, tasks, split, seed)
        names = [task.name for task in tasks]
        if len(weights) != len(names):
            raise ValueError(f"weights={list(weights)!r}: expected one for each of {', '.join(names)}")
        self.cycle = Cycle(dict(zip(names, weights, strict=True)), (seed, split, "tasks"), counts)

    def count_examples(self, number: int) -> list[int]:
        """How many of the first `number` examples are of each task."""
        whole, rest = divmod(number, self.cycle.length)
        last = [self.cycle.at(number - 1 - i)[0] for i in range(rest)]
        return [whole * count + last.count(k) for k, count in enumerate(self.cycle.counts)]

    def __getitem__(self, i: int) -> Example:
        if i < 0:
            raise IndexError(f"i={i}: examples are numbered 0, 1, 2, ...")
        k, n = self.cycle.at(i)
        return self.streams[k].example(n, k)

    @staticmethod
    def first_examples(
        source: Source, tasks: Sequence[Task], split: Split, per_task: int, seed: int = 0
    ) -> "FixedExamples":
        """The same list in every run: the first `per_task` examples of each task, one task after the other.

        Fewer where the source runs out of records, since none comes twice. `seed` is not the seed of a run.
        """
        return FixedExamples(streams(source, tasks, split, seed), per_task)


class FixedExamples(Dataset[Example]):
    """The first examples of each stream, each record at most once; see `Mixture.first_examples`."""

    def __init__(self, streams: Sequence[Stream], per_task: int) -> None:
        if per_task < 1:
            raise ValueError(f"per_task={per_task!r}: expected a whole number from 1")
        self.streams = streams
        self.places = [(k, n) for k, stream in enumerate(streams) for n in range(stream.first_epoch(per_task))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Example:
        k, n = self.places[i]
        return self.streams[k].example(n, k)


class RunningBatchSampler(Sampler[list[int]]):
    """Numbers of the examples of one rank's batches, without end.

    Step s of all ranks together takes the numbers start + s * world * batch_size and on; rank r takes the r-th
    `batch_size` of them, so ranks together see what one process with their joint batch size would.
    start: number of the first example, or a function that gives it whenever iteration begins. It has to come from the
    trainer: workers fetch ahead, so what this sampler has handed out is more than what was trained on.
    """

    def __init__(self, batch_size: int, start: int | Callable[[], int] = 0, rank: int = 0, world: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size!r}: expected a whole number from 1")
        if not 0 <= rank < world:
            raise ValueError(f"rank={rank!r}: expected a whole number from 0 to {world - 1} (world={world})")
        self.batch_size, self.start, self.rank, self.world = batch_size, start, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        first = (self.start() if callable(self.start) else self.start) + self.rank * self.batch_size
        while True:
            yield list(range(first, first + self.batch_size))
            first += self.world * self.batch_size


def one_thread(worker: int) -> None:
    """Keep a loader's worker process to one core."""
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
