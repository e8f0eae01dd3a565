"""Training: Lightning's Trainer around the module, its callbacks and loggers, from the last checkpoint on."""

from collections.abc import Iterable

import lightning
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.loggers import Logger
from torch import Tensor

from mtdiff.data.module import MixtureModule
from mtdiff.model.painter import first_noise
from mtdiff.runs.experiment import Experiment
from mtdiff.training.bar import StepBar
from mtdiff.training.callbacks import EMA, SampleGrid
from mtdiff.training.checkpoint_files import WholeFiles, find_newest, step_of
from mtdiff.training.checkpoints import Checkpoints
from mtdiff.training.faults import Finite
from mtdiff.training.loggers import HURRY, Rows, close, wandb_logger
from mtdiff.training.parallel import trainer_arguments
from mtdiff.training.random_states import seed_everywhere
from mtdiff.training.signals import Signals
from mtdiff.training.starvation import TaskGradients
from mtdiff.types import Batch, Example


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
        callbacks=[*measure_gradients(run), checkpoints, *make_callbacks(run)],
        logger=list(make_loggers(run, 0 if last is None else step_of(last))),
        plugins=[WholeFiles()],
        enable_checkpointing=False,  # of Lightning's own
        log_every_n_steps=10,
        use_distributed_sampler=False,
        enable_progress_bar=run.phases.shown,
        enable_model_summary=False,
        default_root_dir=run.folder,
    )
    try:
        trainer.fit(run.module, datamodule=run.data, ckpt_path=last, weights_only=True)
    finally:
        if run.module.cache is not None:
            run.module.cache.write()
    if signals.received is not None:  # too late for training to answer
        close(trainer.loggers, HURRY)
        raise signals.interruption()
    return trainer, checkpoints.seconds()


def measure_gradients(run: Experiment) -> Iterable[Callback]:
    """Comes before the checkpoints: what follows a validation is logged when a checkpoint keeps that step."""
    if run.training.validate_every is not None:
        yield TaskGradients(lambda: few_examples(run.data, min(4, run.training.batch_size)), run.autocast)


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
    if run.phases.shown:
        yield StepBar(run.phases)


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
