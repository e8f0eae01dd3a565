"""Signals that end a run in order. No torch here."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from mtdiff.errors import Interrupted

NAMES = ("SIGTERM", "SIGUSR1", "SIGINT")  # SIGUSR1: SLURM's warning before it takes the machine; Windows has none
ENDING = tuple(signal.Signals[name] for name in NAMES if name in signal.Signals.__members__)


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
        """Install the handlers, also in place of those that others have set since."""
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
