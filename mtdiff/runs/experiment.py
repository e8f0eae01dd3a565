"""What one run is made of, told by plain objects; nothing here sees the configuration."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from mtdiff.backbones.base import Backbone
from mtdiff.config.settings import Evaluation, Training
from mtdiff.data.module import MixtureModule
from mtdiff.metrics.quality import Judge
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter
from mtdiff.results.phases import Phases
from mtdiff.runs.judging import Trivial
from mtdiff.training.module import MultiTaskModule

MIXED_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What one run is made of.

    module: trains. painter: draws with the same denoiser, for the pictures of training and for the evaluation.
    untouched: the base beside it, judged too; None: not judged. trivial: answers that need no model, by task and batch.
    trainer: Lightning's arguments. patience: seconds that a logger may take to start and to end. base: reads the base
    model once more, to tell how far training has moved it; None: not told. phases: where the run says how far it is.
    found: options of tasks that follow from the data. init, teacher: what is to be said of the run that it goes on
    from, and of the run that teaches it.
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
    phases: Phases = field(default_factory=lambda: Phases(shown=False))
    patience: float = 60.0
    base: Callable[[], Backbone] | None = None
    found: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    init: Mapping[str, Any] | None = None
    teacher: Mapping[str, Any] | None = None

    def describe_origin(self) -> dict[str, Any]:
        """For `Result.method_report`: what the run has from its data, and from earlier runs."""
        told = {} if not self.found else {"task_options": {name: dict(node) for name, node in self.found.items()}}
        runs = {"init_from": self.init, "teacher": self.teacher}
        return told | {name: dict(run) for name, run in runs.items() if run is not None}

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of training, for what runs outside of the Trainer."""
        dtype = MIXED_DTYPES.get(str(self.trainer.get("precision")))
        return nullcontext() if dtype is None else torch.autocast(self.module.device.type, dtype)
