"""One run from constructed objects to `result.json`: train, evaluate, keep the adapter.

Everything here is told by plain objects; the configuration is only carried into the result.
"""

import copy
import csv
import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, RichProgressBar
from lightning.pytorch.loggers import Logger
from safetensors.torch import save
from torch import Tensor

from mtdiff.backbones.base import Backbone
from mtdiff.config.settings import Evaluation, Training
from mtdiff.data.mixture import FixedExamples
from mtdiff.data.module import MixtureModule
from mtdiff.errors import Interrupted, RunError, one_line
from mtdiff.files import reason, write_atomically
from mtdiff.metrics.quality import Judge
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter, first_noise
from mtdiff.model.sampling import Guidance
from mtdiff.provenance import hash_weights
from mtdiff.results.record import Result, Row
from mtdiff.runs.adapter import identity
from mtdiff.runs.evaluation import Trivial, baseline_rows, draw_batches, judge_rows
from mtdiff.runs.method_report import Origin, report_method, report_training
from mtdiff.training.callbacks import EMA, SampleGrid, save_grid
from mtdiff.training.checkpoints import Checkpoints, WholeFiles, find_newest, seed_everywhere, step_of
from mtdiff.training.faults import Finite
from mtdiff.training.loggers import EVALUATION, HURRY, Rows, cells, close, publish, read_rows, wandb_logger
from mtdiff.training.memory import advise, within_memory
from mtdiff.training.module import MultiTaskModule
from mtdiff.training.parallel import gather_tensor, is_first, split_over_ranks, trainer_arguments
from mtdiff.training.signals import Signals
from mtdiff.types import Batch, Example

log = logging.getLogger(__name__)
GRID_COLUMNS = 8
MIXED_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What one run is made of.

    module: trains. painter: draws with the same denoiser, for the pictures of training and for the evaluation.
    untouched: the base beside it, judged too; None: not judged. trivial: answers that need no model, by task and batch.
    trainer: Lightning's arguments. patience: seconds that a logger may take to start and to end. base: reads the base
    model once more, to tell how far training has moved it; None: not told.
    """

    module: MultiTaskModule
    painter: Painter
    data: MixtureModule
    training: Training
    evaluation: Evaluation
    trainer: Mapping[str, Any]
    folder: Path
    trivial: Trivial
    judge: Judge
    untouched: Denoiser | None = None
    wandb: Mapping[str, Any] | None = None
    progress: bool = True
    patience: float = 60.0
    base: Callable[[], Backbone] | None = None

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of training, for what runs outside of the Trainer."""
        dtype = MIXED_DTYPES.get(str(self.trainer.get("precision")))
        return nullcontext() if dtype is None else torch.autocast(self.module.device.type, dtype)


# Training


def train(run: Experiment, signals: Signals) -> tuple[lightning.Trainer, float]:
    """Train to `training.steps`, from the last checkpoint where there is one. Returns the seconds spent in all."""
    seed_everywhere(run.module.seed)
    last = find_newest(run.folder / "checkpoints")
    checkpoints = Checkpoints(run.folder / "checkpoints", run.training.save_every, signals)
    trainer = lightning.Trainer(
        **trainer_arguments(run.trainer),
        max_steps=run.training.steps,
        max_epochs=-1,
        accumulate_grad_batches=run.training.accumulate,
        gradient_clip_val=run.training.clip,
        val_check_interval=(run.training.validate_every or run.training.steps) * run.training.accumulate,
        check_val_every_n_epoch=None,
        limit_val_batches=0 if run.training.validate_every is None else 1.0,
        num_sanity_val_steps=0,
        callbacks=[checkpoints, *make_callbacks(run)],
        logger=list(make_loggers(run, 0 if last is None else step_of(last))),
        plugins=[WholeFiles()],
        enable_checkpointing=False,  # of Lightning's own
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_progress_bar=run.progress,
        enable_model_summary=False,
        default_root_dir=run.folder,
    )
    trainer.fit(run.module, datamodule=run.data, ckpt_path=last, weights_only=True)
    if signals.received is not None:  # too late for training to answer
        close(trainer.loggers, HURRY)
        raise signals.interruption()
    return trainer, checkpoints.seconds()


def make_callbacks(run: Experiment) -> Iterable[Callback]:
    settings = run.training
    yield Finite(run.folder / "faults", settings.on_nan)
    if settings.ema_decay is not None:
        yield EMA(settings.ema_decay)
    if settings.sample_every is not None:

        def draw(batch: Batch) -> Tensor:
            with run.autocast():
                return run.painter.draw(batch, noise)

        shown = few_examples(run.data, 4)
        noise = first_noise(shown, run.module.denoiser.backbone.latent_shape, run.evaluation.seed)
        yield SampleGrid(shown, run.folder / "samples" / "training", settings.sample_every, draw)
    yield LearningRateMonitor("step")
    if run.progress:
        yield RichProgressBar()


def make_loggers(run: Experiment, step: int) -> Iterable[Logger]:
    """step: where training goes on."""
    yield Rows(run.folder / "metrics.csv", step)
    if run.wandb is not None:
        yield wandb_logger(run.folder, run.wandb, run.patience)


def few_examples(data: MixtureModule, per_task: int) -> Batch:
    """The first validation examples of each task."""
    chosen: list[Example] = []
    for k in range(len(data.tasks)):
        of_task = (data.validation[i] for i in range(len(data.validation)))
        chosen += [e for e in of_task if e.task == k][:per_task]
    return Batch.collate(chosen)


# Evaluation


def evaluate(run: Experiment) -> tuple[list[Row], Batch, Tensor]:
    """Rows of the trained model and of what it must beat; the test examples and its answers."""
    module, seed = run.module.eval(), run.evaluation.seed
    shape, tasks = module.denoiser.backbone.latent_shape, run.data.tasks
    batches = [Batch.collate(part) for part in _split_examples(run.data.test, run.evaluation.batch_size)]
    with run.autocast():  # drawing only: metrics are computed in full precision
        batch, answers = draw_batches(batches, split_over_ranks(run.painter.draw, module.device), shape, seed)
    drawn = None if run.untouched is None else draw_base(run, run.untouched, batches)
    if not is_first():  # all have drawn; one judges
        return [], batch, answers
    judge = run.judge.to(module.device)
    rows = list(judge_rows(judge, tasks, batch, answers, seed, "run"))
    if not run.evaluation.baselines:
        return rows, batch, answers
    rows += baseline_rows(judge, tasks, batch, seed, run.trivial, lambda pictures: reconstruct(run, pictures))
    if drawn is not None:
        rows += judge_rows(judge, tasks, batch, drawn, seed, "base")
    return rows, batch, answers


def draw_base(run: Experiment, untouched: Denoiser, batches: list[Batch]) -> Tensor:
    """Answers of the untouched base (n, 3, H, W): it reads the prompt, under the largest scale, and sees no source."""
    device, shape = run.module.device, untouched.backbone.latent_shape
    text = Guidance(text=max((g.text for g in run.painter.guidance.values()), default=1.0))
    scales = dict.fromkeys(untouched.tasks, text)
    painter = replace(run.painter, denoiser=untouched.to(device), guidance=scales)
    with run.autocast():
        _, drawn = draw_batches(batches, split_over_ranks(painter.draw, device), shape, run.evaluation.seed)
    return drawn


def reconstruct(run: Experiment, pictures: Tensor) -> Tensor:
    """The autoencoder's own rendering of pictures (n, 3, H, W): no model on its latents does better."""
    backbone = run.module.denoiser.backbone
    parts = pictures.split(run.evaluation.batch_size)
    return torch.cat([backbone.decode(backbone.encode(p.to(run.module.device))).cpu() for p in parts])


def _split_examples(examples: FixedExamples, size: int) -> Iterable[list[Example]]:
    for start in range(0, len(examples), size):
        yield [examples[i] for i in range(start, min(start + size, len(examples)))]


# The run folder


def save_adapter(run: Experiment, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """`adapter.safetensors` and `adapter.json`: only what the method adds or changes, which is returned."""
    tensors = {k: gather_tensor(v).cpu().contiguous() for k, v in run.module.denoiser.adapter().items()}
    if not is_first():
        return tensors
    path = run.folder / "adapter.safetensors"
    try:
        write_atomically(path, save(tensors, metadata={"about": identity(about)}))
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({reason(error)})") from None
    write_atomically(run.folder / "adapter.json", json.dumps({**about, "base": hash_base(run)}, indent=1) + "\n")
    return tensors


def hash_base(run: Experiment) -> str | None:
    """Which weights the base had, so that the adapter is not put on others; None where they cannot be read again."""
    try:
        return None if run.base is None else hash_weights(run.base().parameters())
    except (OSError, ValueError) as error:
        log.warning("the base cannot be read again, so the adapter does not name its weights: %s", one_line(error))
        return None


def build_report(run: Experiment, adapter: Mapping[str, Tensor]) -> dict[str, Any]:
    """`Result.method_report`. What goes wrong in making it costs the report, not the run."""
    if not is_first():
        return {}
    try:
        found = report_training(read_rows(run.folder / "metrics.csv"))
        if learned := run.module.balancing.weighting.report():
            found["balancing"] = learned
        if run.base is None:
            return found
        backbone = run.base()
        origin = Origin.of(backbone)
        trained = Denoiser(backbone, copy.deepcopy(run.module.denoiser.method), run.module.tasks)
        trained.load_adapter(adapter)
        return {**report_method(trained, origin), **found}
    except Exception as error:
        log.warning("no report of the method: %s", one_line(error))
        return {"reason": one_line(error)}


def save_samples(run: Experiment, batch: Batch, answers: Tensor) -> None:
    """`samples/<task>.png`: source, answer and truth of the first test examples."""
    for k, task in enumerate(run.data.tasks):
        part = batch.task == k
        few, drawn = batch.rows(part), answers[part][:GRID_COLUMNS]
        shown = few.rows(torch.arange(len(few)) < GRID_COLUMNS)
        path, chosen = run.folder / "samples" / f"{task}.png", torch.ones(len(drawn), dtype=torch.bool)
        save_grid(path, shown, drawn, chosen, root=run.folder)


def write_evaluation(folder: Path, rows: Iterable[Row]) -> None:
    """Evaluation rows beside Lightning's training columns: `evaluation.csv`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([EVALUATION, *(cells(row) for row in rows)])
    write_atomically(folder / "evaluation.csv", text.getvalue())


def execute(run: Experiment, result: Result, about: Mapping[str, Any]) -> Result:
    """Train, keep the adapter, evaluate, write `result.json`; a run that breaks leaves one with its status."""
    with Signals() as signals:
        return _execute_steps(run, result, about, signals)


def _execute_steps(run: Experiment, result: Result, about: Mapping[str, Any], signals: Signals) -> Result:
    path = run.folder / "result.json"
    open_loggers: list[Logger] = []
    try:
        with within_memory("training", advise(run.training, run.trainer)):
            trainer, seconds = train(run, signals)
        open_loggers = trainer.loggers
        run.module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
        report = build_report(run, save_adapter(run, about))
        seen = trainer.global_step * run.training.batch_size * run.training.accumulate * trainer.world_size
        result = replace(result, steps=trainer.global_step, samples_seen=seen)
        result = replace(result, seconds={"train": round(seconds, 1), "eval": None})
        began = time.monotonic()
        with within_memory("evaluating", ["a lower evaluation.batch_size"]):
            rows, batch, answers = evaluate(run)
        if not is_first():
            return result
        save_samples(run, batch, answers)
        write_evaluation(run.folder, rows)
        spent = {**result.seconds, "eval": round(time.monotonic() - began, 1)}
        result = replace(result, status="complete", seconds=spent, rows=rows, method_report=report)
        result.save(path)
    except BaseException as error:
        close(open_loggers, HURRY)
        stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        ended = replace(result, status="interrupted" if stopped else "failed", rows=[], error=one_line(error))
        if run.folder.exists() and is_first():
            keep_result(ended, path)
        if isinstance(error, OSError):
            raise RunError(f"{run.folder}: {one_line(error)}; what is there is kept") from error
        raise
    publish(open_loggers, result, run.folder)
    close(open_loggers)
    return result


def keep_result(result: Result, path: Path) -> None:
    """Write the result of a run that has ended early, where that can be done."""
    try:
        result.save(path)
    except OSError as error:
        log.warning("%s cannot be written (%s)", path, error.strerror)
