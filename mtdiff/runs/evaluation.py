"""The end of a run: every task's test examples drawn, judged by the metrics it owns, beside what must be beaten.

Letters: B batch, C latent channels, H W pixels, h w latent size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from mtdiff.metrics.quality import Judge
from mtdiff.model.painter import Draw, first_noise
from mtdiff.results.record import Row
from mtdiff.tasks.base import Task
from mtdiff.types import Batch

Trivial = Callable[[str, Batch], dict[str, Tensor]]


def draw_batches(batches: Iterable[Batch], draw: Draw, shape: tuple[int, int, int], seed: int) -> tuple[Batch, Tensor]:
    """Draw batch by batch; returns all examples as one batch, and the answers (n, 3, H, W) on the CPU."""
    kept, answers = [], []
    for batch in batches:
        kept.append(batch)
        answers.append(draw(batch, first_noise(batch, shape, seed)).cpu())
    return Batch.cat(kept), torch.cat(answers)


def judge_rows(
    judge: Judge, tasks: Mapping[str, Task], batch: Batch, answers: Tensor, seed: int, model: str
) -> Iterator[Row]:
    """Yield a row per task and metric for a model's answers (n, 3, H, W); what is not finite gets no value."""
    for k, (name, task) in enumerate(tasks.items()):
        rows = batch.task == k
        yield from judge.rows(name, task.metrics, answers[rows], batch.rows(rows), seed, model)


def baseline_rows(
    judge: Judge,
    tasks: Mapping[str, Task],
    batch: Batch,
    seed: int,
    trivial: Trivial,
    autoencoder: Callable[[Tensor], Tensor],
) -> Iterator[Row]:
    """Yield rows of trivial answers to the same examples, and of the autoencoder's rendering of the truth."""
    for k, (name, task) in enumerate(tasks.items()):
        part = batch.rows(batch.task == k)
        answers = {**trivial(name, part), "autoencoder": autoencoder(part.target)}
        for model, answer in answers.items():
            yield from judge.rows(name, task.metrics, answer, part, seed, model)
