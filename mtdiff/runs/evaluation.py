"""The end of a run: test examples drawn and judged, beside what must be beaten on the same examples."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mtdiff.data.mixture import FixedExamples
from mtdiff.model.painter import Draw, first_noise
from mtdiff.results.phases import Phase
from mtdiff.results.record import Row
from mtdiff.runs.baselines import judge_baselines, make_base_painter, remember_rows
from mtdiff.runs.experiment import Experiment
from mtdiff.runs.judging import draw_batches, judge_rows
from mtdiff.tasks.base import Task
from mtdiff.training.parallel import is_first, split_over_ranks
from mtdiff.types import Batch


def evaluate(run: Experiment) -> tuple[list[Row], Batch, Tensor]:
    """Rows of the trained model and of what it must beat; the test examples and its answers (n, 3, H, W)."""
    run.module.eval()
    batches = [Batch.collate(part) for part in split_examples(run.data.test, run.evaluation.batch_size)]
    with run.phases.start("draw", len(run.data.test), "pictures") as phase:
        batch, answers = draw_test(run, batches, run.painter.draw, phase)
    said = {f"said_{name}": numbers for name, numbers in ask_test(run, batches).items()}
    asked = replace(batch, extra={**batch.extra, **said})
    rows: list[Row] = []
    judge, seed = run.judge.to(run.module.device), run.evaluation.seed
    if is_first():  # all have drawn; one judges
        with run.phases.start("judge"):
            rows += judge_rows(judge, run.data.tasks, asked, answers, seed, "run")
    if run.evaluation.baselines:
        rows += remember_rows(run, batch, lambda: compare(run, batch, batches))
    return rows, batch, answers


def ask_test(run: Experiment, batches: list[Batch]) -> dict[str, Tensor]:
    """What the model says to the tasks' questions: numbers (n,) by name, 0 where nothing was asked.

    Every process asks all of them.
    """
    said: dict[str, Tensor] = {}
    if run.painter.denoiser.method.process is None:
        return said
    start, total = 0, sum(map(len, batches))
    for batch in batches:
        for k, task in enumerate(run.data.tasks.values()):
            rows = (batch.task == k).nonzero().flatten()
            for name, values in ask_task(run, task, batch.rows(batch.task == k)).items():
                said.setdefault(name, torch.zeros(total, dtype=torch.int64))[start + rows] = values.cpu()
        start += len(batch)
    return said


def ask_task(run: Experiment, task: Task, batch: Batch) -> Mapping[str, Tensor]:
    """The numbers (B,) that the model gives for one task's question about its examples; none where it has none."""
    question = task.ask(batch) if len(batch) else None
    if question is None:
        return {}
    noise = first_noise(question, run.module.denoiser.backbone.latent_shape, run.evaluation.seed)
    with run.autocast():
        return run.painter.answer(question, noise).numbers


def compare(run: Experiment, batch: Batch, batches: list[Batch]) -> list[Row]:
    """Rows of everything that the run's own training has no part in, on the first process."""
    drawn = None
    if (painter := make_base_painter(run)) is not None:
        with run.phases.start("draw the base", len(batch), "pictures") as phase:
            _, drawn = draw_test(run, batches, painter.draw, phase)
    if not is_first():
        return []
    with run.phases.start("judge baselines"):
        return judge_baselines(run, batch, drawn)


def draw_test(run: Experiment, batches: list[Batch], draw: Draw, phase: Phase) -> tuple[Batch, Tensor]:
    """All test examples as one batch, and the answers (n, 3, H, W) that all processes together have drawn."""
    together = split_over_ranks(draw, run.module.device)

    def draw_counted(batch: Batch, noise: Tensor) -> Tensor:
        drawn = together(batch, noise)
        phase.advance(len(batch))
        return drawn

    shape = run.module.denoiser.backbone.latent_shape
    with run.autocast():  # drawing only: metrics are computed in full precision
        return draw_batches(batches, draw_counted, shape, run.evaluation.seed)


def split_examples(examples: FixedExamples, size: int) -> Iterator[list]:
    for start in range(0, len(examples), size):
        yield [examples[i] for i in range(start, min(start + size, len(examples)))]
