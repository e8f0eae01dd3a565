"""Checkpoints from which a run goes on bit for bit: when they are written, how they stay whole, which one is read.

`checkpoints/step-00000300-<checksum>.ckpt` appears complete or not at all; two are kept.
"""

import hashlib
import logging
import os
import random
import re
import time
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import lightning
import numpy as np
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.pytorch.callbacks import Callback
from torch import distributed

from mtdiff.errors import RunError
from mtdiff.files import Folder, first_process, hold_folder, reason
from mtdiff.training.progress import rewind_batch_start
from mtdiff.training.signals import Signals

log = logging.getLogger(__name__)
KEPT = 2
DIGITS = 16  # of the SHA-256 in a file's name: against accidents, not against malice
NAME = re.compile(rf"step-\d{{1,18}}-[0-9a-f]{{{DIGITS}}}\.ckpt")
PARTS = ("state_dict", "loops", "optimizer_states", "lr_schedulers", "callbacks", "global_step")  # of Lightning's


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
        """The checksum of what has been written. OSError where something could not be."""
        if self.failure is not None:
            raise self.failure
        return self.hash.hexdigest()[:DIGITS]


class WholeFiles(CheckpointIO):
    """Writes to a temporary name, flushes, and renames to a name that holds the checksum. Reads numbers and tensors.

    failure: why the last checkpoint could not be written. It is not raised, so that all ranks go on together.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self._warned = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path, self.failure = Path(path), None
        temporary = f".{path.name}.tmp"
        try:
            with hold_checkpoints(path.parent) as folder:
                with folder.create(temporary) as file:
                    hashing = Hashing(file)
                    torch.save(checkpoint, hashing)  # type: ignore[arg-type]
                    checksum = hashing.finish()
                folder.rename(temporary, f"{path.stem}-{checksum}{path.suffix}")
                self._flush_names(folder)
        except OSError as error:
            self.failure = error

    def _flush_names(self, folder: Folder) -> None:
        """The new name reaches the disk too, where the file system can do that; the checkpoint is complete anyway."""
        try:
            if folder.handle is not None:
                os.fsync(folder.handle)
        except OSError as error:
            if not self._warned:
                log.warning("%s cannot be flushed (%s): a power cut may cost its last file", folder.path, reason(error))
            self._warned = True

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint that `find_newest` has found whole; RunError where it is none of ours."""
        try:
            with open_checkpoint(path) as file:
                found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch's reading of broken bytes runs into
            raise RunError(f"{path}: no checkpoint of numbers and tensors ({reason(error)})") from None
        missing = [key for key in PARTS if not isinstance(found, dict) or key not in found]
        if missing:
            raise RunError(
                f"{path}: no whole checkpoint of a run, `{missing[0]}` is missing; remove it to go on without"
            )
        return found

    def remove_checkpoint(self, path: Any) -> None:
        with hold_checkpoints(Path(path).parent) as folder:
            folder.remove(Path(path).name)


def hold_checkpoints(folder: Path) -> AbstractContextManager[Folder]:
    """The folder of checkpoints inside its run's folder."""
    return hold_folder(folder.parent, folder.name)


def open_checkpoint(path: Any) -> BufferedReader:
    """A checkpoint for reading. OSError where it is a link or no ordinary file."""
    with hold_checkpoints(Path(path).parent) as folder:
        return os.fdopen(folder.open(Path(path).name, os.O_RDONLY), "rb")


def is_whole(path: Path) -> bool:
    """Whether a checkpoint holds what was written."""
    try:
        with open_checkpoint(path) as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]
    except OSError:  # put aside by another rank
        return False
    return path.stem.rpartition("-")[2] == found


def identify_folder(folder: Path) -> tuple[int, int] | None:
    """Device and number of a folder, whatever its name: None where there is none."""
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def open_folder(folder: Path) -> int | None:
    """A descriptor of the folder: while it is open no other folder gets this one's number."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def step_of(path: Path) -> int:
    return int(path.name.split("-")[1])


def list_checkpoints(folder: Path) -> list[Path]:
    """Files that are named like ours, the newest first; others are left alone."""
    paths = [path for path in folder.glob("step-*.ckpt") if NAME.fullmatch(path.name)]
    return sorted(paths, key=lambda p: (step_of(p), p.lstat().st_mtime_ns), reverse=True)


def find_newest(folder: Path) -> Path | None:
    """The last whole checkpoint; damaged ones are put aside, saying so."""
    for path in list_checkpoints(folder):
        if is_whole(path):
            return path
        log.warning("%s is damaged: going on from the one before it", path)
        if first_process():
            with hold_checkpoints(folder) as held:
                held.rename(path.name, path.with_suffix(".damaged").name)
    return None


def prune_checkpoints(folder: Path) -> None:
    """Keep the newest, and remove what a killed process left half written."""
    with hold_checkpoints(folder) as held:
        for path in (*list_checkpoints(folder)[KEPT:], *folder.glob(".step-*.tmp")):
            held.remove(path.name)


# Random states


def seed_everywhere(seed: int) -> None:
    """torch, NumPy, Python: a process that starts again before its first checkpoint draws what the first one drew."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def read_random_state() -> dict[str, Any]:
    """The random states of torch, NumPy and Python, as plain numbers and tensors."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global state is what is kept)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
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
