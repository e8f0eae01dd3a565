"""A run's folder and its process: held by one at a time, ended in order by signals. No torch here."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

ENDING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)  # SIGUSR1: SLURM's warning before it takes the machine


class InUse(ValueError):
    """Another process works on the run."""


class RunError(Exception):
    """Ends a run with one line and exit code 1: the command is right, but the run cannot go on."""


class Interrupted(BaseException):
    """The run was asked to end; the same command goes on from there. code: exit code, 128 + the signal's number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def first_process() -> bool:
    """Whether this is rank 0 of a run, told by its environment as the launchers set it."""
    ranks = (os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank is not None), "0") == "0"


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Make the folder and hold it alone while the context lasts. InUse names the process that has it.

    A POSIX record lock: the kernel drops it with its process, however that dies, and loader workers do not inherit it.
    """
    if not first_process():
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(folder)
    except OSError as error:
        raise ValueError(f"run_dir={folder}: cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        os.close(descriptor)


def wait_for(folder: Path) -> None:
    """Return when no process holds the folder."""
    while True:
        try:
            with alone(folder):
                return
        except InUse:
            time.sleep(0.2)


def _locked(folder: Path) -> int:
    """Descriptor of the folder's lock file, with our name in it."""
    import fcntl  # only where runs are made: result files are read on any system

    path = folder / ".lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise InUse(f"run_dir={folder}: in use by {owner}") from None
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return descriptor
        os.close(descriptor)  # its last holder removed it meanwhile


class Signals:
    """Ending signals. While `patient` the first is only noted in `received`, for training to end at its next step;
    otherwise, and at the second, the run ends at once by `Interrupted`."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.patient = False
        self._process = os.getpid()
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: not set from Python

    def install(self) -> None:
        """Also in place of handlers that others have set since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in ENDING:
            before = signal.signal(number, self._hear)
            self._before.setdefault(number, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's worker: it ends with us
            return
        again, self.received = self.received is not None, signal.Signals(number)
        if again or not self.patient:
            raise self.interruption()

    def interruption(self) -> Interrupted:
        number = self.received or signal.SIGTERM  # heard by another rank
        return Interrupted(f"ended by {number.name}; the same command goes on from here", 128 + number)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks, and its kind where that is not one of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, RunError | Interrupted | ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
