"""Loaders of a run: mixed training batches that resume exactly, and the same test examples in every run."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, DistributedSampler, Sampler

from mtdiff.data.buckets import BucketedMixture
from mtdiff.data.loader import START, SteadyLoader
from mtdiff.data.mixture import Mixture, one_thread
from mtdiff.data.shares import cycle_counts, fine_counts
from mtdiff.data.source import Source
from mtdiff.tasks.base import Task
from mtdiff.types import Batch, Example, Split


class MixtureModule(LightningDataModule):
    """tasks: name -> task; their order gives the task ids. weights: name -> share in training, 1 where not named.

    batch_size: examples per process and batch. workers: loader processes (0: load in the main one).
    seed: draws the training examples; validation and test examples are the same for every seed.
    test_split: where the examples to be judged come from; validation while options are chosen.
    temperature: of the shares by numbers of training records (`config.settings.Training`); None: the weights alone.
    validation_per_task, test_per_task: examples per task, fewer where the source has fewer records.

    position: number of the training example to go on from. Lightning saves and restores it with a checkpoint. It is
    counted in optimiser steps, so what was accumulated when a run was cut off is read again, and it still holds if the
    batch size changes on resumption.
    Set `use_distributed_sampler=False` in the Trainer: ranks are dealt their shares here.
    """

    def __init__(
        self,
        source: Source,
        tasks: Mapping[str, Task],
        weights: Mapping[str, float] | None = None,
        batch_size: int = 16,
        workers: int = 2,
        seed: int = 0,
        test_per_task: int = 256,
        validation_per_task: int = 64,
        test_split: Split = "test",
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.tasks, self.position, self._step = _check_names(tasks), 0, 0
        self.batch_size, self.workers = _check_whole("batch_size", batch_size, 1), _check_whole("workers", workers, 0)
        _check_whole("test_per_task", test_per_task, 1), _check_whole("validation_per_task", validation_per_task, 1)
        shares, run = _weights(weights or {}, self.tasks), list(self.tasks.values())
        buckets, self.source = source.buckets(), source
        counts = cycle_counts if temperature is None else fine_counts
        if temperature is not None:
            records = [count_records(source, task) for task in run]
            shares = [weight * n ** (1 / temperature) for weight, n in zip(shares, records, strict=True)]
        self.train: Mixture | BucketedMixture = Mixture(source, run, shares, "train", seed, counts)
        if len(buckets) > 1 or buckets[0] is not source:
            self.train = BucketedMixture(buckets, run, shares, seed)
        self.validation = Mixture.first_examples(source, run, "validation", validation_per_task)
        self.test = Mixture.first_examples(source, run, test_split, test_per_task)

    def probe(self) -> None:
        """Make the first example of every task and split, so that what a task refuses of the data is said early."""
        for examples in (self.train, self.validation, self.test):
            for k, stream in enumerate([] if isinstance(examples, BucketedMixture) else examples.streams):
                stream.example(0, k)

    # Loaders

    def train_dataloader(self) -> SteadyLoader:
        """Endless; starts at `next_number()` whenever it is iterated."""
        rank, world = self._place()
        if isinstance(self.train, BucketedMixture):
            self.train.joint = self.batch_size * world
        return SteadyLoader(self.train, self.batch_size, self.next_number, rank, world, **self._how())

    def val_dataloader(self) -> DataLoader[Example]:
        """This process's share, equally many for all; where they do not divide, some examples come twice."""
        rank, world = self._place()
        return self._load_in_order(self.validation, DistributedSampler(self.validation, world, rank, shuffle=False))

    def test_dataloader(self) -> DataLoader[Example]:
        return self._load_in_order(self.test)

    def _place(self) -> tuple[int, int]:
        """This process's rank, and how many processes there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _load_in_order(self, examples: Dataset[Example], sampler: Sampler[int] | None = None) -> DataLoader[Example]:
        seeds = torch.Generator()  # of its own: starting workers leaves the run's random state alone
        return DataLoader(examples, batch_size=self.batch_size, sampler=sampler, generator=seeds, **self._how())

    def _how(self) -> dict[str, Any]:
        return {
            "num_workers": self.workers,
            "multiprocessing_context": START if self.workers > 0 else None,
            "collate_fn": Batch.collate,
            "worker_init_fn": one_thread,
            "pin_memory": torch.cuda.is_available(),
            "prefetch_factor": 4 if self.workers > 0 else None,
        }

    def count_skipped(self) -> Mapping[str, int]:
        """Records that could not be read and were replaced so far, by `need/split`."""
        return self.source.count_skipped()

    # Resumption

    def next_number(self) -> int:
        """Number of the first training example that no finished optimiser step has used."""
        if self.trainer is None:
            return self.position
        batches = (self.trainer.global_step - self._step) * self.trainer.accumulate_grad_batches
        return self.position + batches * self.batch_size * self.trainer.world_size

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.next_number(), "step": self.trainer.global_step if self.trainer is not None else 0}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.position, self._step = state_dict["position"], state_dict["step"]


def count_records(source: Source, task: Task) -> int:
    """Training records that can feed a task; at least 1, since a task without any is refused where it is read."""
    return max(1, sum(source.size(need, "train") for need in task.needs))


def _check_names(tasks: Mapping[str, Task]) -> dict[str, Task]:
    for key, task in tasks.items():
        if key != task.name:
            raise ValueError(f"tasks: key {key!r} holds a task named {task.name!r}; expected the same name in both")
    return dict(tasks)


def _weights(weights: Mapping[str, float], tasks: Mapping[str, Task]) -> list[float]:
    """One weight per task, in their order."""
    for name in weights:
        if name not in tasks:
            raise ValueError(f"weights[{name!r}]={weights[name]!r}: unknown task; expected one of {', '.join(tasks)}")
    return [weights.get(name, 1.0) for name in tasks]


def _check_whole(name: str, value: int, least: int) -> int:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={value!r}: expected a whole number from {least}")
    return value
