"""What a run says while it works: into a pipe, on a terminal, and not at all."""

import io
import os
import pty
import subprocess
import sys

import pytest

from mtdiff.results import phases
from mtdiff.results.phases import Phases, format_seconds


def said(stream: io.StringIO) -> list[str]:
    return stream.getvalue().splitlines()


def test_into_a_pipe_a_phase_is_two_lines() -> None:
    stream = io.StringIO()
    with Phases(stream=stream).start("draw", 64, "pictures") as phase:
        for _ in range(64):
            phase.advance()
    first, last = said(stream)
    assert first == "draw ..."
    assert last.startswith("draw: 64/64 pictures, ")
    assert "pictures/s" in last


class Clock:
    """Stands for the module `time` of phases, so that a busy machine changes nothing."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(phases, "time", made)
    return made


def test_into_a_pipe_a_long_phase_says_a_line_now_and_then(clock: Clock) -> None:
    stream = io.StringIO()
    with Phases(stream=stream).start("train", 40, "steps") as phase:
        for _ in range(40):
            clock.now += phases.SECONDS / 10
            phase.advance(note="loss 1.000")
    lines = said(stream)
    assert [line.split(",")[0] for line in lines] == [
        "train ...",
        *(f"train: {n}/40 steps" for n in (10, 20, 30, 40, 40)),
    ]
    assert all("left" in line and line.endswith("loss 1.000") for line in lines[1:-2])


def test_a_pause_counts_neither_as_time_nor_in_the_rate(clock: Clock) -> None:
    with Phases(shown=False).start("train", 10, "steps") as phase:
        phase.start_at(5)
        clock.now += 2
        phase.advance()
        with phase.pause():
            clock.now += 100
        assert phase.seconds == 2
        assert phase.rate == 0.5


def test_nothing_is_said_where_nothing_is_to_be_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with Phases(shown=False).start("load") as phase:
        phase.advance()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("seconds", "text"), [(0.04, "0.0 s"), (59.2, "59.2 s"), (245, "4:05"), (7445, "2:04:05")])
def test_times_are_short(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_on_a_terminal_a_phase_is_one_bar_whose_end_stays() -> None:
    program = """
from mtdiff.results.phases import Phases
with Phases().start("draw", 3, "pictures") as phase:
    for _ in range(3):
        phase.advance()
with Phases().start("load"):
    pass
"""
    own, other = pty.openpty()
    done = subprocess.run([sys.executable, "-c", program], stderr=other, stdout=subprocess.PIPE, check=True)
    os.close(other)
    text = b""
    try:
        while part := os.read(own, 4096):
            text += part
    except OSError:  # the end, on Linux
        pass
    os.close(own)
    assert done.stdout == b""
    assert b"3/3 pictures" in text
    assert b"load" in text
