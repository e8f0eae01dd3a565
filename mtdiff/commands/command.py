"""How every script starts and ends: its help, and one line with an exit code for whatever goes wrong.

Nothing heavy is imported here, so that Ctrl-C is answered from a script's first line on, also while it still imports.
"""

import signal
import sys
from collections.abc import Callable
from typing import Any

INTERRUPTED = 128 + signal.SIGINT


def run_command(main: Callable[[list[str]], int | None], documentation: str | None, *, prefix: str = "error") -> None:
    """Run a script's `main` with its arguments, or print its documentation where help is asked for; then exit.

    documentation: None leaves --help to `main`. prefix: how the line about a mistake begins.
    """
    arguments = sys.argv[1:]
    if documentation is not None and {"-h", "--help"} & set(arguments):
        print(documentation.strip())
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

    before = signal.signal(signal.SIGINT, interrupt) if is_default(signal.SIGINT) else None
    try:
        code = action()
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


def describe_failure(error: BaseException, prefix: str) -> tuple[int | None, str]:
    """The exit code and the line of an error that we foresee; (None, "") for any other."""
    from mtdiff.errors import IN_USE, Interrupted, InUse, RunError
    from mtdiff.files import shown

    line = f"{prefix}: {shown(error, 1000)}"
    match error:
        case Interrupted():
            return error.code, shown(error, 1000)
        case InUse():
            return IN_USE, line
        case ValueError() | OSError():
            return 2, line
        case RunError():
            return 1, line
    return None, ""
