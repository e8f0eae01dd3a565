"""A model's answers to test examples: drawn batch by batch, and judged by the metrics that each task owns.

Letters: B batch, C latent channels, H W pixels, h w latent size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mtdiff.metrics.quality import Judge
from mtdiff.model.painter import Draw, first_noise
from mtdiff.results.record import Row
from mtdiff.tasks.base import Task
from mtdiff.types import Batch

Trivial = Callable[[str, Batch, Sequence[str]], dict[str, Tensor]]
"""A task's name, its examples, and the references it asks for -> pictures (n, 3, H, W) by the name of the answer."""


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
