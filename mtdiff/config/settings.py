"""Settings of a run that belong to no method, backbone or data set. No torch here, so mistakes answer at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, Self

from mtdiff.config.drawing import Inherit, Switch


def check_least(key: str, value: float, low: float) -> None:
    if not low <= value < float("inf"):
        raise ValueError(f"{key}={value}: expected at least {low}{' and finite' if value == float('inf') else ''}")


def check_between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key}={value}: expected {low} to {high}")


@dataclass(frozen=True)
class Training:
    """steps: optimiser steps. batch_size: per process. accumulate: batches a step.

    warmup: steps in which the rate rises. decay: share of the steps, the last, in which it falls to zero.

    ema_decay: null for none. sample_every, validate_every, save_every: in steps, null for never.
    dropout: shares of samples that lose text, image, or both.
    optimizer: adamw, adam (weight decay added to the gradient), or adamw_8bit (by bitsandbytes, on a GPU).
    on_nan: what a loss or gradient that is not finite does: end the run, or leave the step out.
    cache: where encodings are looked up: auto for the user's cache, which a run on a CPU fills, or a folder that
    experiments/cache.py filled; null: everything is encoded when it is needed.
    start: a finished run, or a shipped adapter, of the same method, base and tasks: its adapter is trained further, on
    a schedule of its own; null: as the method starts. With that run's seed it would see the same examples again.
    temperature: T of the mixture (T5, arXiv 1910.10683, sec. 3.5.2): a task's share is its weight times its number of
    records to the power of 1/T. 1: in proportion to the records; large: as the weights; null: the weights alone.
    """

    steps: int
    batch_size: int
    lr: float
    accumulate: int = 1
    optimizer: Literal["adamw", "adam", "adamw_8bit"] = "adamw"
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    decay: float = 0.7
    clip: float | None = 1.0
    ema_decay: float | None = 0.995
    dropout: Mapping[str, float] = field(default_factory=lambda: {"text": 0.05, "image": 0.05, "both": 0.05})
    gradient_checkpointing: bool = False
    workers: int = 1
    sample_every: int | None = 200
    validate_every: int | None = 600
    save_every: int | None = 600
    on_nan: Literal["stop", "skip"] = "stop"
    cache: str | None = "auto"
    start: str | None = None
    temperature: float | None = None

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulate"):
            check_least(f"training.{key}", getattr(self, key), 1)
        for key in ("lr", "weight_decay", "warmup", "workers"):
            check_least(f"training.{key}", getattr(self, key), 0)
        for key in ("sample_every", "validate_every", "save_every"):
            if getattr(self, key) is not None:
                check_least(f"training.{key}", getattr(self, key), 1)
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise ValueError(f"training.temperature={self.temperature}: expected a positive, finite number, or null")
        if self.optimizer == "adamw_8bit" and find_spec("bitsandbytes") is None:
            raise ValueError("training.optimizer=adamw_8bit: needs bitsandbytes, pip install -e '.[8bit]'")
        if self.on_nan not in ("stop", "skip"):
            raise ValueError(f"training.on_nan={self.on_nan}: expected one of stop, skip")
        check_between("training.decay", self.decay, 0, 1)
        if self.clip is not None:
            check_least("training.clip", self.clip, 0)
        for beta in self.betas:
            if not 0 <= beta < 1:
                raise ValueError(f"training.betas={list(self.betas)}: expected at least 0 and less than 1")
        if self.ema_decay is not None:
            check_between("training.ema_decay", self.ema_decay, 0, 1)
        unknown = set(self.dropout) - {"text", "image", "both"}
        if unknown:
            raise ValueError(f"training.dropout.{min(unknown)}: expected one of text, image, both")
        shares = self.dropout.values()
        if min(shares, default=0) < 0 or not sum(shares) <= 1:
            raise ValueError(f"training.dropout={dict(self.dropout)}: expected shares from 0 that sum to at most 1")


@dataclass(frozen=True)
class Sampling:
    """guidance: {task: {image: s_I, text: s_T}}; a task that is not named has none.

    keep_known: a source's known pixels around a hole stay in the answer; see `mtdiff.model.painter.Painter`.
    inherit, switch: null, or the options of `Inherit` and `Switch`, by which a drawing takes less time.
    budget: of a method with several sizes, the share of the base's FLOPs to draw with; null: its largest.
    """

    steps: int = 20
    sampler: Literal["ddim", "dpm++", "ddpm"] = "ddim"
    guidance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    keep_known: bool = True
    inherit: Mapping[str, Any] | None = None
    switch: Mapping[str, Any] | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        check_between("sampling.steps", self.steps, 1, 1000)
        if self.budget is not None and not 0 < self.budget <= 1:
            raise ValueError(f"sampling.budget={self.budget}: expected a share above 0 and up to 1, or null")
        if self.inherit is not None:
            Inherit.read(self.inherit)
        if self.switch is not None:
            Switch.read(self.switch)
        for task, scales in self.guidance.items():
            if not isinstance(scales, Mapping):
                raise ValueError(f"sampling.guidance.{task}={scales}: expected a mapping with image and text")
            for name, value in scales.items():
                if name not in ("image", "text"):
                    raise ValueError(f"sampling.guidance.{task}.{name}={value}: expected one of image, text")


@dataclass(frozen=True)
class Evaluation:
    """per_task: examples of each task. split: validation while choosing options, test for what is reported.

    baselines: also judge trivial baselines and the untrained base.
    """

    split: Literal["validation", "test"] = "test"
    per_task: int = 64
    batch_size: int = 64
    validation_per_task: int = 16
    baselines: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_least("evaluation.per_task", self.per_task, 2)
        check_least("evaluation.batch_size", self.batch_size, 1)
        check_least("evaluation.validation_per_task", self.validation_per_task, 1)
        check_least("evaluation.seed", self.seed, 0)


@dataclass(frozen=True)
class Speed:
    """What makes a run faster on some machines and changes no result beyond rounding.

    compile: torch.compile of the denoiser. channels_last: memory layout of convolutions. fused: one optimiser kernel.
    """

    compile: bool = False
    channels_last: bool = False
    fused: bool = False


@dataclass(frozen=True)
class Settings:
    """What a configuration says besides the objects that it constructs, built and checked in one place."""

    training: Training
    speed: Speed
    sampling: Sampling
    evaluation: Evaluation

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> Self:
        """The settings of a whole configuration. ValueError where a value is out of its range."""
        return cls(
            training=Training(**plain["training"]),
            speed=Speed(**plain["speed"]),
            sampling=Sampling(**plain["sampling"]),
            evaluation=Evaluation(**plain["evaluation"]),
        )
