"""Checkpoints from which a run goes on bit for bit: when they are written, and what they hold of a training."""

import logging
import os
import time
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from mtdiff.errors import RunError, reason
from mtdiff.training.checkpoint_files import (
    WholeFiles,
    identify_folder,
    list_checkpoints,
    open_folder,
    prune_checkpoints,
    step_of,
)
from mtdiff.training.progress import rewind_batch_start
from mtdiff.training.random_states import gather_states, read_random_state, restore_random_state
from mtdiff.training.signals import Signals

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Saves between two optimiser steps, when all that belongs to the last one (validation, rows, pictures) is done.

    Every `every` steps, at the end of training, when a signal asks the run to end, and when the run's folder is gone:
    then it is made again, and the run ends. Has to be the first callback: what others do when a batch starts belongs
    to the next step.
    """

    def __init__(self, folder: Path, every: int | None, signals: Signals) -> None:
        self.folder, self.every, self.signals = folder, every, signals
        self._step, self._spent, self._began = 0, 0.0, time.monotonic()
        self._restored: int | None = None  # step of the checkpoint that training went on from
        self._random: list[dict[str, Any]] | None = None
        self._place = identify_folder(folder.parent)
        self._held = open_folder(folder.parent)

    def seconds(self) -> float:
        """Spent in training, by the processes before this one too."""
        return self._spent + time.monotonic() - self._began

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step
        self._restored = None if self._random is None else self._step
        self.signals.install()  # in place of Lightning's, which would save where this cannot go on exactly
        self.signals.patient = True

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._random is not None:  # not earlier: starting the loaders draws numbers
            restore_random_state(self._random[trainer.global_rank % len(self._random)])
            self._random = None
        if trainer.global_step == self._step:  # in the middle of an accumulation
            return
        self._step = trainer.global_step
        ends = self.must_end(trainer)
        if ends or (self.every is not None and self._step % self.every == 0):
            self.save(trainer)
        if ends:
            raise self.explain_end()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        ends = self.must_end(trainer)
        if ends or (self.every is not None and self._restored != trainer.global_step):
            self.save(trainer)
        if ends:
            raise self.explain_end()

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self.signals.patient = False
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def must_end(self, trainer: lightning.Trainer) -> bool:
        """Whether any rank has been asked to end, or has lost the folder."""
        own = self.signals.received is not None or self.has_lost_folder()
        return trainer.strategy.reduce_boolean_decision(own, all=False)

    def has_lost_folder(self) -> bool:
        return identify_folder(self.folder.parent) != self._place

    def explain_end(self) -> BaseException:
        if self.has_lost_folder():
            folder = self.folder.parent
            return RunError(
                f"{folder} vanished; step {self._step} is kept in a new one, where the same command goes on"
            )
        return self.signals.interruption()

    def save(self, trainer: lightning.Trainer) -> None:
        """Write one, let go of the oldest. A disk that is full costs this checkpoint alone."""
        io = trainer.strategy.checkpoint_io
        assert isinstance(io, WholeFiles)
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step:08d}.ckpt", weights_only=False)
        if not trainer.is_global_zero:
            return
        if io.failure is None:
            try:
                prune_checkpoints(self.folder)
            except OSError as error:
                log.warning("old checkpoints in %s cannot be removed (%s)", self.folder, reason(error))
            return
        before = (f"that of step {step_of(p)} is kept" for p in list_checkpoints(self.folder))
        kept = next(before, "there is none before it")
        log.warning("no checkpoint at step %d: %s; %s", trainer.global_step, io.failure, kept)

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        rewind_batch_start(checkpoint["loops"]["fit_loop"])

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds(), "random": gather_states(read_random_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent, self._began = state_dict["seconds"], time.monotonic()
        self._random = state_dict["random"]
