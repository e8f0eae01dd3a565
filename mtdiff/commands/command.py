"""How every script starts and ends: its help, and one line with an exit code for whatever goes wrong.

Nothing heavy is imported here. From the moment that this module is there, Ctrl-C ends a process in one line, also while
the script still imports what it needs.
"""

import contextlib
import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

INTERRUPTED = 128 + signal.SIGINT
UNREAD = 141  # 128 + SIGPIPE: whoever read what we print has gone


def run_command(main: Callable[[list[str]], int | None], documentation: str | None, *, prefix: str = "error") -> None:
    """Run a script's `main` with its arguments, or print its documentation where help is asked for; then exit.

    documentation: None leaves --help to `main`. prefix: how the line about a mistake begins.
    """
    arguments = sys.argv[1:]
    if documentation is not None and {"-h", "--help"} & set(arguments):
        guard(lambda: print(documentation.strip(), flush=True))
        return
    guard(lambda: main(arguments), prefix=prefix)


def guard(action: Callable[[], int | None], *, prefix: str = "error") -> None:
    """Run `action`; a user's mistake is one line and exit code 2, Ctrl-C one line and 130, and so on.

    An action that returns a number exits with it.
    """
    heard: list[int] = []

    def interrupt(number: int, frame: Any) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    print_any_letter()
    before = signal.signal(signal.SIGINT, interrupt) if is_default(signal.SIGINT) else None
    try:
        code = action()
        sys.stdout.flush()
    except BaseException as error:
        # Libraries turn an interrupt during their import into an error of their own: the signal is what counts.
        interrupted = bool(heard) or isinstance(error, KeyboardInterrupt)
        code, line = (INTERRUPTED, "interrupted") if interrupted else describe_failure(error, prefix)
        if code is None:
            raise
        if line:
            print(line, file=sys.stderr)
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, before)
    if code:
        sys.exit(code)


def is_default(number: int) -> bool:
    return signal.getsignal(number) is signal.default_int_handler


def print_any_letter() -> None:
    """A letter that the terminal's encoding lacks is printed by its number; printing never fails."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def describe_failure(error: BaseException, prefix: str) -> tuple[int | None, str]:
    """The exit code and the line of an error that we foresee; (None, "") for any other."""
    from mtdiff.errors import IN_USE, Interrupted, InUse, RunError, shown

    line = f"{prefix}: {shown(error, 1000)}"
    match error:
        case Interrupted():
            return error.code, shown(error, 1000)
        case InUse():
            return IN_USE, line
        case BrokenPipeError() if is_unread(sys.stdout):
            silence(sys.stdout)
            return UNREAD, ""
        case ValueError() | OSError():
            return 2, line
        case RunError():
            return 1, line
    return None, ""


def is_unread(stream: Any) -> bool:
    """Whether a stream is a pipe whose reader has gone, as with `script --help | head -1`."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # POLLERR is told unasked
        return bool(poll.poll(0))
    except (OSError, ValueError, AttributeError):  # no file, or a system without poll
        return False


def silence(stream: Any) -> None:
    """What the stream still holds goes nowhere; else Python complains of it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def end_at_interrupt(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Python's last word on an error that nobody caught: Ctrl-C is one line, whatever a library has made of it."""
    if any(isinstance(cause, KeyboardInterrupt) for cause in list_causes(error)):
        with contextlib.suppress(OSError, ValueError):
            print("interrupted", file=sys.stderr, flush=True)
        os._exit(INTERRUPTED)
    sys.__excepthook__(kind, error, trace)


def list_causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and those that it was raised from or while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


if sys.excepthook is sys.__excepthook__:
    sys.excepthook = end_at_interrupt
