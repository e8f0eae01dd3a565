"""What a run says while it works: each phase by its name, as a bar on a terminal, a line now and then into a pipe.

All of it goes to stderr; what a run finds out goes to stdout. No torch here.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

SECONDS = 30.0
"""Between two lines of one phase where there is no terminal."""
COLUMNS = ("{task.description}", BarColumn(bar_width=20), "{task.fields[state]}")


class Phase:
    """One phase: `advance` counts what is done. total: of what `unit` names; None: nothing is counted.

    say: shows the state, told whether it is the last time.
    """

    def __init__(self, name: str, total: int | None, unit: str, say: Callable[["Phase", bool], None]) -> None:
        self.name, self.total, self.unit, self.note, self.done = name, total, unit, "", 0
        self._say, self._spent, self._began = say, 0.0, 0
        self._since: float | None = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent so far, without pauses."""
        return self._spent + (0.0 if self._since is None else time.monotonic() - self._since)

    @property
    def rate(self) -> float:
        """Units a second, of those that this process has done."""
        return (self.done - self._began) / max(self.seconds, 1e-9)

    def start_at(self, done: int) -> None:
        """What was done before, which the rate does not count; the clock starts now."""
        self.done = self._began = done
        self._spent, self._since = 0.0, time.monotonic()

    def advance(self, number: int = 1, note: str = "") -> None:
        self.done += number
        self.note = note or self.note
        self._say(self, False)

    @contextmanager
    def pause(self) -> Iterator[None]:
        """What happens meanwhile is no part of the phase."""
        self._spent, self._since = self.seconds, None
        try:
            yield
        finally:
            self._since = time.monotonic()

    def describe(self, ended: bool) -> str:
        """The state in words: how much of how much, how fast, how much longer."""
        if self.total is None:
            return format_seconds(self.seconds) if ended else ""
        parts = [f"{self.done}/{self.total} {self.unit}"]
        if self.done > self._began and self.seconds > 0:
            parts.append(f"{self.rate:.3g} {self.unit}/s")
            left = (self.total - self.done) / self.rate
            parts.append(format_seconds(self.seconds) if ended else f"{format_seconds(left)} left")
        return ", ".join([*parts, *([self.note] if self.note else [])])


def format_seconds(seconds: float) -> str:
    """`8.3 s`, `4:05`, `2:04:05`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Phases:
    """Where phases are said. shown: false for none. stream: stderr, where nothing else is given."""

    def __init__(self, *, shown: bool = True, stream: TextIO | None = None) -> None:
        self.shown, self.stream = shown, stream

    @contextmanager
    def start(self, name: str, total: int | None = None, unit: str = "") -> Iterator[Phase]:
        """Say that a phase begins, show it while the context lasts, and say how long it took."""
        stream = self.stream or sys.stderr
        if not self.shown:
            yield Phase(name, total, unit, lambda phase, ended: None)
        elif stream.isatty():
            with show_bar(Console(file=stream, markup=False, highlight=False), name, total, unit) as phase:
                yield phase
        else:
            with print_lines(stream, name, total, unit) as phase:
                yield phase


@contextmanager
def show_bar(console: Console, name: str, total: int | None, unit: str) -> Iterator[Phase]:
    columns = (column if isinstance(column, BarColumn) else TextColumn(column, markup=False) for column in COLUMNS)
    with Progress(*columns, console=console, refresh_per_second=4) as progress:
        task = progress.add_task(name, total=total, state="")

        def say(phase: Phase, ended: bool) -> None:
            whole = phase.total or (1 if ended else None)
            done = whole if ended and phase.total is None else phase.done
            progress.update(task, completed=done, total=whole, state=phase.describe(ended))

        phase = Phase(name, total, unit, say)
        yield phase
        say(phase, True)


@contextmanager
def print_lines(stream: TextIO, name: str, total: int | None, unit: str) -> Iterator[Phase]:
    last = time.monotonic()

    def say(phase: Phase, ended: bool) -> None:
        nonlocal last
        if ended or time.monotonic() - last >= SECONDS:
            last = time.monotonic()
            print(f"{name}: {phase.describe(ended)}", file=stream, flush=True)

    print(f"{name} ...", file=stream, flush=True)
    phase = Phase(name, total, unit, say)
    yield phase
    say(phase, True)
