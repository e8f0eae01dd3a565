"""What to change where memory runs out, and layouts in memory that are faster."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from mtdiff.config.settings import Training
from mtdiff.errors import RunError


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, also on the CPU, where torch has no class of its own for it."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and ("not enough memory" in text or "can't allocate memory" in text)
    )


def advise(training: Training, trainer: Mapping[str, Any]) -> list[str]:
    """Return settings that lower the memory of training and that the run does not have yet, the cheapest first."""
    half = training.batch_size // 2
    keeping = f"training.batch_size={half} training.accumulate={2 * training.accumulate}"
    found = {
        "trainer.precision=bf16-mixed": "32" in str(trainer.get("precision", "32-true")),
        "training.gradient_checkpointing=true": not training.gradient_checkpointing,
        keeping: half > 0,
        "training.optimizer=adamw_8bit": training.optimizer == "adamw",
        "trainer=fsdp": trainer.get("strategy") != "fsdp",
    }
    return [setting for setting, helps in found.items() if helps]


@contextmanager
def within_memory(stage: str, settings: list[str]) -> Iterator[None]:
    """Raise a RunError in one line that names settings where memory runs out in `stage`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        tried = "; ".join(settings) or "a smaller model or pictures"
        raise RunError(f"out of memory while {stage}; try {tried} ({said})") from error


def use_channels_last(module: nn.Module) -> None:
    """Lay convolution weights out with their channels last, which fast kernels want, in place."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
