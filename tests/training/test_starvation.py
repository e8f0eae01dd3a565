"""Lengths of the tasks' gradients: those that autograd gives, measured without a trace in the run."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TASKS, tiny_unet
from tiny_fits import batch, settings
from torch import Tensor

from baselines.lora_ffn import LoraFFN
from mtdiff.model.denoiser import Denoiser
from mtdiff.training.loggers import Rows, read_rows
from mtdiff.training.module import MultiTaskModule
from mtdiff.training.starvation import GRADIENT, TaskGradients


class Trainer:
    """What the callback reads of Lightning's trainer."""

    def __init__(self, folder: Path, world_size: int = 1) -> None:
        self.world_size, self.global_step, self.loggers = world_size, 3, [Rows(folder / "metrics.csv")]


def made() -> MultiTaskModule:
    torch.manual_seed(0)
    return MultiTaskModule(Denoiser(tiny_unet(), LoraFFN(rank=2, dropout=0.5), TASKS), settings()).train()


def expected(module: MultiTaskModule, k: int) -> float:
    some = batch(8)
    module.zero_grad()
    module.errors(some.rows(some.task == k))[0].mean().backward()
    lengths = [p.grad.square().sum() for p in module.parameters() if p.grad is not None]
    module.zero_grad()
    return float(torch.stack(lengths).sum().sqrt())


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_end"])
def test_lengths_are_autograds_and_leave_no_trace(hook: str, tmp_path: Path) -> None:
    module, trainer = made(), Trainer(tmp_path)
    callback: Any = TaskGradients(lambda: batch(8), nullcontext)
    state: Tensor = torch.get_rng_state()
    getattr(callback, hook)(trainer, module)  # no validation was there
    assert read_rows(tmp_path / "metrics.csv") == []
    callback.on_validation_end(trainer, module)
    getattr(callback, hook)(trainer, module)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in module.parameters())
    (row,) = read_rows(tmp_path / "metrics.csv")
    for k, task in enumerate(TASKS):
        torch.set_rng_state(state)
        for before in range(k):
            expected(module, before)  # dropout draws as it did
        assert float(row[f"{GRADIENT}{task}"]) == pytest.approx(expected(module, k), rel=1e-4)


def test_several_processes_measure_none(tmp_path: Path) -> None:
    callback: Any = TaskGradients(lambda: batch(4), nullcontext)
    trainer = Trainer(tmp_path, world_size=2)
    callback.on_validation_end(trainer, made())
    callback.on_train_end(trainer, made())
    assert not (tmp_path / "metrics.csv").exists()
