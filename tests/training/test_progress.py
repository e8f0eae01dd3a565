"""Lightning's counts at a batch's start, set back to where its own checkpoint of the batch before stands."""

import ast
import inspect
import re
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback, LightningDataModule, LightningModule
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import ModelParallelStrategy
from tiny import TASKS, tiny_unet
from tiny_fits import fit, settings

from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.training.module import MultiTaskModule
from mtdiff.training.progress import BATCHES, LOGGED, rewind_batch_start

ROOT = Path(__file__).parents[2]


class Loops(lightning.Callback):
    """Keeps the state of the fit loop from checkpoints at the end of each batch, and at the start of the next one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ends: dict[int, dict[str, Any]] = {}
        self.starts: dict[int, dict[str, Any]] = {}

    def state(self, trainer: lightning.Trainer) -> dict[str, Any]:
        trainer.save_checkpoint(self.folder / "one.ckpt", weights_only=False)
        return torch.load(self.folder / "one.ckpt", weights_only=True)["loops"]["fit_loop"]

    def on_train_batch_start(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.starts[trainer.global_step] = self.state(trainer)

    def on_train_batch_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.ends[trainer.global_step] = self.state(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *args: Any) -> None:
        self.starts[trainer.global_step] = self.state(trainer)


def test_a_rewound_start_is_lightnings_own_checkpoint_of_the_batch_before(tmp_path: Path) -> None:
    """Fails where Lightning counts otherwise or names its counts anew."""
    loops = Loops(tmp_path)
    fit(MultiTaskModule(Denoiser(tiny_unet(), MTU(experts=2), TASKS), settings()), tmp_path, 3, [loops])
    for state in (loops.starts[1], loops.ends[1]):
        assert isinstance(state[BATCHES].pop("is_last_batch"), bool)  # of the next batch; our loaders never end
    assert loops.starts[1] != loops.ends[1]
    rewind_batch_start(loops.starts[1])
    assert loops.starts[1] == loops.ends[1]


def private_names(module: ast.Module) -> set[str]:
    """Attributes and parts of strings that begin with one underscore."""
    nodes = list(ast.walk(module))
    texts = [str(n.value) for n in nodes if isinstance(n, ast.Constant)]
    names = [n.attr for n in nodes if isinstance(n, ast.Attribute)] + [w for text in texts for w in text.split(".")]
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def lightnings_own(*classes: type) -> set[str]:
    """Private attributes that Lightning's classes and those above them in Lightning set or read on themselves."""
    ours = {c for cls in classes for c in cls.__mro__ if c.__module__.startswith("lightning.")}
    return {name for cls in ours for name in re.findall(r"self\.(_[a-z]\w*)", inspect.getsource(cls))}


def test_what_is_lightnings_own_is_named_in_one_file_alone() -> None:
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    loops = (trainer.fit_loop, trainer.fit_loop.epoch_loop)
    bases = (LightningModule, LightningDataModule, Callback, Logger, CheckpointIO, ModelParallelStrategy)
    private = lightnings_own(*bases, type(trainer), *map(type, loops))
    assert {"_device_mesh", LOGGED[1]} <= private
    used = {
        str(path.relative_to(ROOT)): private & private_names(ast.parse(source))
        for path in sorted((ROOT / "mtdiff").rglob("*.py"))
        if "lightning" in (source := path.read_text(encoding="utf-8")).lower()
    }
    assert {path: names for path, names in used.items() if names} == {"mtdiff/training/progress.py": {LOGGED[1]}}
