"""Training's progress: optimiser steps of all steps, at a rate that counts neither validation nor sample grids."""

from contextlib import AbstractContextManager, ExitStack
from typing import Any

import lightning
from lightning.pytorch.callbacks import ProgressBar
from torch import Tensor

from mtdiff.results.phases import Phase, Phases


class StepBar(ProgressBar):
    """Shows training as one phase. Lightning's own bar counts epochs, of which a run has no number."""

    def __init__(self, phases: Phases) -> None:
        super().__init__()
        self.phases, self._stack = phases, ExitStack()
        self._phase: Phase | None = None
        self._pause: AbstractContextManager[None] | None = None

    def disable(self) -> None:
        """Lightning calls this on every process but the first."""
        self.phases = Phases(shown=False)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._phase = self._stack.enter_context(self.phases.start("train", trainer.max_steps, "steps"))
        self._phase.start_at(trainer.global_step)

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        assert self._phase is not None
        taken = trainer.global_step - self._phase.done
        if taken > 0:  # not an accumulated batch
            loss = trainer.callback_metrics.get("train/loss")
            self._phase.advance(taken, f"loss {float(loss):.3f}" if isinstance(loss, Tensor) else "")

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._phase is not None:
            self._pause = self._phase.pause()
            self._pause.__enter__()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if self._pause is not None:
            self._pause.__exit__(None, None, None)
            self._pause = None

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._stack.close()

    def on_exception(self, trainer: lightning.Trainer, pl_module: Any, exception: BaseException) -> None:
        self._stack.close()
