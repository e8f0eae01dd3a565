"""One run from constructed objects to `result.json`: train, evaluate, keep the adapter.

Everything here is told by plain objects; the configuration is only carried into the result.
"""

import csv
import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from safetensors.torch import save_file
from torch import Tensor

from mtdiff.callbacks import EMA, SampleGrid, save_grid
from mtdiff.data.module import MixtureModule
from mtdiff.denoiser import Denoiser
from mtdiff.evaluate import (
    Trivial,
    base_drawer,
    baseline_rows,
    drawer,
    first_noise,
    gather,
    judge_rows,
)
from mtdiff.metrics.quality import Judge
from mtdiff.module import MultiTaskModule
from mtdiff.results import Result, Row, write_atomically
from mtdiff.settings import Evaluation, Training
from mtdiff.types import Batch

log = logging.getLogger(__name__)
GRID_COLUMNS = 8
MIXED_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True)
class Experiment:
    """What one run is made of.

    trivial: answers that need no model, by task and batch. trainer: Lightning's arguments.
    """

    module: MultiTaskModule
    data: MixtureModule
    training: Training
    evaluation: Evaluation
    trainer: Mapping[str, Any]
    folder: Path
    trivial: Trivial
    judge: Judge
    wandb: Mapping[str, Any] | None = None
    progress: bool = True

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of training, for what runs outside of the Trainer."""
        dtype = MIXED_DTYPES.get(str(self.trainer.get("precision")))
        return nullcontext() if dtype is None else torch.autocast(self.module.device.type, dtype)


# Training


def train(run: Experiment) -> tuple[lightning.Trainer, float]:
    """Train to `training.steps`, from the last checkpoint where there is one. Returns the seconds spent here."""
    torch.manual_seed(run.module.seed)
    trainer = lightning.Trainer(
        **run.trainer,
        max_steps=run.training.steps,
        max_epochs=-1,
        accumulate_grad_batches=run.training.accumulate,
        gradient_clip_val=run.training.clip,
        val_check_interval=(run.training.validate_every or run.training.steps) * run.training.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if run.training.validate_every is None else 1.0,
        num_sanity_val_steps=0,
        callbacks=list(callbacks(run)),
        logger=list(loggers(run)),
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_progress_bar=run.progress,
        enable_model_summary=False,
        default_root_dir=run.folder,
    )
    last = run.folder / "checkpoints" / "last.ckpt"
    began = time.monotonic()
    trainer.fit(run.module, datamodule=run.data, ckpt_path=last if last.exists() else None, weights_only=True)
    return trainer, time.monotonic() - began


def callbacks(run: Experiment) -> Iterable[Callback]:
    settings = run.training
    if settings.ema_decay is not None:
        yield EMA(settings.ema_decay)
    if settings.sample_every is not None:

        def draw(module: MultiTaskModule, batch: Batch) -> Tensor:
            with run.autocast():
                return drawer(module, 0)(batch, noise)

        shown = few_examples(run.data, 4)
        noise = first_noise(shown, run.module.denoiser.backbone.latent_shape, run.evaluation.seed)
        yield SampleGrid(shown, run.folder / "samples" / "training", settings.sample_every, draw)
    if settings.save_every is not None:
        yield ModelCheckpoint(
            run.folder / "checkpoints",
            filename="{step}",
            every_n_train_steps=settings.save_every,
            save_last=True,
            save_top_k=1,
            monitor="step",
            mode="max",
        )
    yield LearningRateMonitor("step")
    if run.progress:
        yield RichProgressBar()


def loggers(run: Experiment) -> Iterable[Logger]:
    yield CSVLogger(run.folder, name=None, version="", flush_logs_every_n_steps=20)
    if run.wandb is not None:
        yield WandbLogger(save_dir=run.folder, **run.wandb)


def few_examples(data: MixtureModule, per_task: int) -> Batch:
    """The first validation examples of each task."""
    chosen: list[Any] = []
    for k in range(len(data.tasks)):
        of_task = (data.validation[i] for i in range(len(data.validation)))
        chosen += [e for e in of_task if e.task == k][:per_task]
    return Batch.collate(chosen)


# Evaluation


def evaluate(run: Experiment, untouched: Denoiser | None) -> tuple[list[Row], Batch, Tensor]:
    """Rows of the trained model and of what it must beat; the test examples and its answers."""
    module, seed = run.module.eval(), run.evaluation.seed
    shape, tasks = module.denoiser.backbone.latent_shape, run.data.tasks
    batches = [Batch.collate(part) for part in _parts(run.data.test, run.evaluation.batch_size)]
    with run.autocast():  # drawing only: metrics are computed in full precision
        batch, answers = gather(batches, drawer(module, seed), shape, seed)
    judge = run.judge.to(module.device)
    rows = list(judge_rows(judge, tasks, batch, answers, seed, "run"))
    if not run.evaluation.baselines:
        return rows, batch, answers
    rows += baseline_rows(judge, tasks, batch, seed, run.trivial, lambda pictures: reconstruct(run, pictures))
    if untouched is not None:
        scale = max((g.text for g in module.guidance.values()), default=1.0)
        with run.autocast():
            _, drawn = gather(batches, base_drawer(untouched.to(module.device), module, scale), shape, seed)
        rows += judge_rows(judge, tasks, batch, drawn, seed, "base")
    return rows, batch, answers


def reconstruct(run: Experiment, pictures: Tensor) -> Tensor:
    """The autoencoder's own rendering of pictures (n, 3, H, W): no model on its latents does better."""
    backbone = run.module.denoiser.backbone
    parts = pictures.split(run.evaluation.batch_size)
    return torch.cat([backbone.decode(backbone.encode(p.to(run.module.device))).cpu() for p in parts])


def _parts(examples: Any, size: int) -> Iterable[list[Any]]:
    for start in range(0, len(examples), size):
        yield [examples[i] for i in range(start, min(start + size, len(examples)))]


# The run folder


def save_adapter(run: Experiment, about: Mapping[str, Any]) -> None:
    """`adapter.safetensors` and `adapter.json`: only what the method adds or changes."""
    tensors = {k: v.cpu().contiguous() for k, v in run.module.denoiser.adapter().items()}
    path = run.folder / "adapter.safetensors"
    save_file(tensors, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)
    write_atomically(run.folder / "adapter.json", json.dumps(dict(about), indent=1) + "\n")


def save_samples(run: Experiment, batch: Batch, answers: Tensor) -> None:
    """`samples/<task>.png`: source, answer and truth of the first test examples."""
    for k, task in enumerate(run.data.tasks):
        part = batch.task == k
        few, first = batch.rows(part), answers[part][:GRID_COLUMNS]
        rows = torch.arange(len(few)) < GRID_COLUMNS
        save_grid(
            run.folder / "samples" / f"{task}.png", few.rows(rows), first, torch.ones(len(first), dtype=torch.bool)
        )


def metrics_csv(folder: Path, rows: Iterable[Row]) -> None:
    """Evaluation rows beside Lightning's training columns: `evaluation.csv`."""
    with (folder / "evaluation.csv").open("w", newline="") as f:
        writer = csv.writer(f)
        writer.writerow(["model", "task", "metric", "direction", "value", "low", "high", "n", "reason"])
        writer.writerows([r.model, r.task, r.metric, r.direction, r.value, r.low, r.high, r.n, r.reason] for r in rows)


def execute(run: Experiment, result: Result, about: Mapping[str, Any], untouched: Denoiser | None) -> Result:
    """Train, keep the adapter, evaluate, write `result.json`; a run that breaks leaves one with its status."""
    path = run.folder / "result.json"
    try:
        trainer, seconds = train(run)
        if trainer.interrupted:
            raise KeyboardInterrupt
        save_adapter(run, about)
        seen = trainer.global_step * run.training.batch_size * run.training.accumulate * trainer.world_size
        result = replace(result, steps=trainer.global_step, samples_seen=seen)
        spent: dict[str, float | None] = {"train": round(seconds, 1), "eval": None}
        result = replace(result, seconds=spent)
        began = time.monotonic()
        rows, batch, answers = evaluate(run, untouched)
        save_samples(run, batch, answers)
        metrics_csv(run.folder, rows)
        spent["eval"] = round(time.monotonic() - began, 1)
        result = replace(result, status="complete", rows=rows)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | SystemExit)
        replace(result, status="interrupted" if stopped else "failed").save(path)
        raise
    result.save(path)
    return result
