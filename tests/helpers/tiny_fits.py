"""A few steps of Lightning on one small batch of four tasks."""

from pathlib import Path
from typing import Any

import lightning
import torch

from mtdiff.config.settings import Training
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import Batch


def batch(n: int = 4) -> Batch:
    rng = torch.Generator().manual_seed(5)
    target, source = (torch.rand(n, 3, 16, 16, generator=rng) * 2 - 1 for _ in range(2))
    task = torch.arange(n) % 4
    mask = torch.zeros(n, 1, 16, 16)
    mask[task == 0] = 1
    words = [f"picture {i}" for i in range(n)]
    return Batch(target, source * (1 - mask), mask, words, task, words, words, words, list(range(n)))


def settings(**options: Any) -> Training:
    """A rate of 1e-3 at every step, unless told otherwise."""
    return Training(**{"steps": 1, "batch_size": 4, "lr": 1e-3, "warmup": 0, "decay": 0.0, **options})


class Loader(torch.utils.data.Dataset[int]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, i: int) -> int:
        return i


def fit(made: MultiTaskModule, folder: Path, steps: int, callbacks: list[lightning.Callback]) -> lightning.Trainer:
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    loader = torch.utils.data.DataLoader(Loader(), batch_size=4, collate_fn=lambda _: batch())
    trainer.fit(made, loader)
    return trainer
