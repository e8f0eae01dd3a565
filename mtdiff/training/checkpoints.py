"""Checkpoints from which a run goes on bit for bit: when they are written, how they stay whole, which one is read.

`checkpoints/step-00000300-<checksum>.ckpt` appears complete or not at all; two are kept.
"""

import hashlib
import logging
import os
import random
import time
from pathlib import Path
from typing import Any, BinaryIO

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Callback
from torch import distributed

from mtdiff.errors import RunError
from mtdiff.files import first_process, reason
from mtdiff.training.progress import rewind_batch_start
from mtdiff.training.signals import Signals

log = logging.getLogger(__name__)
KEPT = 2
DIGITS = 16  # of the SHA-256 in a file's name: against accidents, not against malice


# Files


class Hashing:
    """What `torch.save` writes to: hashes on the way, and keeps a failure of the disk until `finish`."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.hash = file, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        size = len(memoryview(data).cast("B"))
        if self.failure is None:
            try:
                self.file.write(data)
                self.hash.update(data)
            except OSError as error:
                self.failure = error  # raised later: torch's writer does not survive an exception here
        return size

    def flush(self) -> None:
        pass

    def finish(self) -> str:
        """Everything is on the disk. Returns the checksum."""
        if self.failure is not None:
            raise self.failure
        self.file.flush()
        os.fsync(self.file.fileno())
        return self.hash.hexdigest()[:DIGITS]


class WholeFiles(CheckpointIO):
    """Writes to a temporary name, flushes, and renames to a name that holds the checksum. Reads numbers and tensors.

    failure: why the last checkpoint could not be written. It is not raised, so that all ranks go on together.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        self.failure = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                hashing = Hashing(file)
                torch.save(checkpoint, hashing)  # type: ignore[arg-type]
                checksum = hashing.finish()
            temporary.replace(path.with_stem(f"{path.stem}-{checksum}"))
            flush_folder(path.parent)
        except OSError as error:
            self.failure = error
            if path.parent.exists():
                temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint that `newest` has found whole; RunError where it is none of ours."""
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch's reading of broken bytes runs into
            raise RunError(f"{path}: no checkpoint of numbers and tensors ({reason(error)})") from None

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def flush_folder(folder: Path) -> None:
    """Names of new files reach the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def whole(path: Path) -> bool:
    """Whether a checkpoint holds what was written."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
    except OSError:  # put aside by another rank
        return False
    return path.stem.rpartition("-")[2] == found


def place(folder: Path) -> tuple[int, int] | None:
    """Which folder this is, whatever its name: None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def held(folder: Path) -> int | None:
    """A descriptor of the folder: while it is open no other folder gets this one's number."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def step_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def listed(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    return sorted(folder.glob("step-*-*.ckpt"), key=lambda p: (step_of(p), p.stat().st_mtime_ns), reverse=True)


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint; damaged ones are put aside, saying so."""
    for path in listed(folder):
        if whole(path):
            return path
        log.warning("%s is damaged: going on from the one before it", path)
        if first_process():
            path.rename(path.with_suffix(".damaged"))
    return None


def prune(folder: Path) -> None:
    """Keep the newest, and remove what a killed process left half written."""
    for path in (*listed(folder)[KEPT:], *folder.glob(".step-*.tmp")):
        path.unlink(missing_ok=True)


# Random states


def seed_everywhere(seed: int) -> None:
    """torch, NumPy, Python: a process that starts again before its first checkpoint draws what the first one drew."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Of torch, NumPy and Python, as plain numbers and tensors."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global state is what is kept)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def restore_random(state: dict[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def of_all_ranks(state: dict[str, Any]) -> list[dict[str, Any]]:
    if not distributed.is_initialized():
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


# When


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
        self._place = place(folder.parent)
        self._held = held(folder.parent)

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
            restore_random(self._random[trainer.global_rank % len(self._random)])
            self._random = None
        if trainer.global_step == self._step:  # in the middle of an accumulation
            return
        self._step = trainer.global_step
        ends = self.ends(trainer)
        if ends or (self.every is not None and self._step % self.every == 0):
            self.save(trainer)
        if ends:
            raise self.reason()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        ends = self.ends(trainer)
        if ends or (self.every is not None and self._restored != trainer.global_step):
            self.save(trainer)
        if ends:
            raise self.reason()

    def teardown(self, trainer: lightning.Trainer, pl_module: Any, stage: str) -> None:
        self.signals.patient = False
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def ends(self, trainer: lightning.Trainer) -> bool:
        """Whether any rank has been asked to end, or has lost the folder."""
        own = self.signals.received is not None or self.lost()
        return trainer.strategy.reduce_boolean_decision(own, all=False)

    def lost(self) -> bool:
        return place(self.folder.parent) != self._place

    def reason(self) -> BaseException:
        if self.lost():
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
            prune(self.folder)
            return
        kept = next((f"that of step {step_of(p)} is kept" for p in listed(self.folder)), "there is none before it")
        log.warning("no checkpoint at step %d: %s; %s", trainer.global_step, io.failure, kept)

    def on_save_checkpoint(self, trainer: lightning.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        rewind_batch_start(checkpoint["loops"]["fit_loop"])

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds(), "random": of_all_ranks(random_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._spent, self._began = state_dict["seconds"], time.monotonic()
        self._random = state_dict["random"]
