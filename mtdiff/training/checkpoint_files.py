"""Files of checkpoints: how they stay whole, which one is read.

`checkpoints/step-00000300-<checksum>.ckpt` appears complete or not at all; two are kept.
"""

import hashlib
import logging
import os
import re
from contextlib import AbstractContextManager
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from mtdiff.errors import RunError, reason
from mtdiff.files.writing import Folder, first_process, hold_folder

log = logging.getLogger(__name__)
KEPT = 2
DIGITS = 16  # of the SHA-256 in a file's name: against accidents, not against malice
NAME = re.compile(rf"step-\d{{1,18}}-[0-9a-f]{{{DIGITS}}}\.ckpt")
PARTS = ("state_dict", "loops", "optimizer_states", "lr_schedulers", "callbacks", "global_step")  # of Lightning's


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
