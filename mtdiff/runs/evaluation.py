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
    """All test examples as one batch, and what `draw` makes of them: (n, 3, H, W)."""
    kept, answers = [], []
    for batch in batches:
        kept.append(batch)
        answers.append(draw(batch, first_noise(batch, shape, seed)).cpu())
    return Batch.cat(kept), torch.cat(answers)


def judge_rows(
    judge: Judge, tasks: Mapping[str, Task], batch: Batch, answers: Tensor, seed: int, model: str
) -> Iterator[Row]:
    """One row per task and metric for a model's answers (n, 3, H, W); one that is not finite is a missing answer."""
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
    """Rows of trivial answers to the same examples, and of the autoencoder's own rendering of the truth (its floor)."""
    for k, (name, task) in enumerate(tasks.items()):
        part = batch.rows(batch.task == k)
        answers = {**trivial(name, part), "autoencoder": autoencoder(part.target)}
        for model, answer in answers.items():
            yield from judge.rows(name, task.metrics, answer, part, seed, model)
