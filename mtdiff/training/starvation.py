"""Who starves in a mixture: how hard each task pulls at the trained weights, and whether its validation error falls."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from math import isfinite
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from mtdiff.types import Batch, to_double

GRADIENT = "validation/gradient/"
LOSS = "validation/loss/"


class TaskGradients(Callback):
    """Logs, beside every validation, the length of the gradient of each task's mean error on a few fixed examples.

    examples: gives a few of each task, asked for at the first validation. precision: the context that training computes
    in. At the weights that are trained, not at their average. Runs of several processes measure none.
    """

    def __init__(self, examples: Callable[[], Batch], precision: Callable[[], AbstractContextManager[Any]]) -> None:
        self.precision, self._due = precision, False
        self._read = functools.cache(examples)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._due = trainer.world_size == 1  # here no gradient can be had

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        self.measure(trainer, pl_module)

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self.measure(trainer, pl_module)

    def measure(self, trainer: lightning.Trainer, module: Any) -> None:
        """Log the lengths where a validation has just ended."""
        if not self._due:
            return
        self._due, devices = False, [module.device] if module.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.enable_grad(), self.precision():
            found = {f"{GRADIENT}{task}": self.length(module, k) for k, task in enumerate(module.tasks)}
        for logger in trainer.loggers:
            logger.log_metrics(found, trainer.global_step - 1)  # as Lightning numbers the validation before it

    def length(self, module: Any, task: int) -> float:
        """Of one task's gradient by all trained parameters."""
        examples = self._read()
        batch = examples.rows(examples.task == task).to(module.device)
        errors, _ = module.errors(batch)
        parameters = [p for p in module.denoiser.parameters() if p.requires_grad]
        gradients = torch.autograd.grad(errors.mean(), parameters, allow_unused=True)
        return float(sum((to_double(g).square().sum() for g in gradients if g is not None), torch.zeros(())).sqrt())


def report_starvation(
    tasks: Sequence[str], examples: Sequence[int | None], rows: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """{task: {examples, gradient, validation}} from the lines of `metrics.csv`.

    gradient, validation: {first, last} of the lengths and of the errors, null where none was measured.
    """
    measured = {"gradient": GRADIENT, "validation": LOSS}
    return {
        task: {"examples": count, **{name: find_ends(rows, prefix + task) for name, prefix in measured.items()}}
        for task, count in zip(tasks, examples, strict=True)
    }


def find_ends(rows: Sequence[Mapping[str, str]], name: str) -> dict[str, float | None]:
    values = [float(row[name]) for row in rows if name in row]
    found = [float(f"{v:.4g}") if isfinite(v) else None for v in values]
    return {"first": found[0] if found else None, "last": found[-1] if found else None}
