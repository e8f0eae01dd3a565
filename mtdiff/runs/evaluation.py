"""The end of a run: every task's test examples drawn, judged by the metrics it owns, beside what must be beaten.

Letters: B batch, C latent channels, H W pixels, h w latent size.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from mtdiff.metrics.quality import Judge, Verdict
from mtdiff.model.conditioning import encode_condition
from mtdiff.model.sampling import Denoise, Guidance, guide, make_scheduler, sample
from mtdiff.results.record import Row
from mtdiff.rng import torch_rng
from mtdiff.tasks.base import Task
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import Batch, Condition

Draw = Callable[[Batch, Tensor], Tensor]
Trivial = Callable[[str, Batch], dict[str, Tensor]]


def first_noise(batch: Batch, shape: tuple[int, int, int], seed: int) -> Tensor:
    """(B, C, h, w): a pure function of each example's key, so that every method starts from the same noise."""
    return torch.stack([torch.randn(shape, generator=torch_rng(seed, "noise", key)) for key in batch.key])


def drawer(module: MultiTaskModule, seed: int) -> Draw:
    """Draws with the trained model under its tasks' guidance."""

    def draw(batch: Batch, noise: Tensor) -> Tensor:
        return module.generate(batch.to(module.device), noise.to(module.device)).cpu()

    return draw


def base_drawer(denoise: Denoise, module: MultiTaskModule, text_scale: float) -> Draw:
    """Draws with the untouched base: it reads the prompt, and never sees the source."""

    def blind(condition: Condition) -> Condition:
        blank = {"source": torch.zeros_like(condition.source), "mask": torch.ones_like(condition.mask)}
        return replace(condition, **blank)  # type: ignore[arg-type]

    def draw(batch: Batch, noise: Tensor) -> Tensor:
        backbone = module.denoiser.backbone
        condition = blind(encode_condition(backbone, batch.to(module.device)))
        guided = guide(condition, module.empty_text(), [Guidance(1.0, text_scale)] * len(batch))
        scheduler = make_scheduler(module.sampler, backbone.scheduler)
        return backbone.decode(sample(denoise, scheduler, guided, noise.to(module.device), module.sampling_steps)).cpu()

    return draw


def gather(batches: Iterable[Batch], draw: Draw, shape: tuple[int, int, int], seed: int) -> tuple[Batch, Tensor]:
    """All test examples as one batch, and what `draw` makes of them: (n, 3, H, W)."""
    kept, answers = [], []
    for batch in batches:
        kept.append(batch)
        answers.append(draw(batch, first_noise(batch, shape, seed)))
    return Batch.cat(kept), torch.cat(answers)


def verdicts(
    judge: Judge, tasks: Mapping[str, Task], batch: Batch, answers: Tensor, seed: int, model: str
) -> Iterator[Verdict]:
    """One per task and metric; an answer that is not finite is a missing one."""
    for k, (name, task) in enumerate(tasks.items()):
        rows = batch.task == k
        yield from judge.verdicts(name, task.metrics, answers[rows], batch.rows(rows), seed, model)


def baseline_verdicts(
    judge: Judge,
    tasks: Mapping[str, Task],
    batch: Batch,
    seed: int,
    trivial: Trivial,
    autoencoder: Callable[[Tensor], Tensor],
) -> Iterator[Verdict]:
    """Trivial answers on the same examples, and the autoencoder's own reconstruction of the truth (its floor)."""
    for k, (name, task) in enumerate(tasks.items()):
        part = batch.rows(batch.task == k)
        answers = {**trivial(name, part), "autoencoder": autoencoder(part.target)}
        for model, answer in answers.items():
            yield from judge.verdicts(name, task.metrics, answer, part, seed, model)


def judge_rows(
    judge: Judge, tasks: Mapping[str, Task], batch: Batch, answers: Tensor, seed: int, model: str
) -> Iterator[Row]:
    """The rows of `verdicts` alone."""
    yield from (verdict.row for verdict in verdicts(judge, tasks, batch, answers, seed, model))


def baseline_rows(
    judge: Judge,
    tasks: Mapping[str, Task],
    batch: Batch,
    seed: int,
    trivial: Trivial,
    autoencoder: Callable[[Tensor], Tensor],
) -> Iterator[Row]:
    """The rows of `baseline_verdicts` alone."""
    yield from (v.row for v in baseline_verdicts(judge, tasks, batch, seed, trivial, autoencoder))
