"""What ends a run, and what is wrong with what a user gave; each is said in one line. No torch here."""

IN_USE = 75  # exit code (EX_TEMPFAIL): another process works on this run


class ConfigError(ValueError):
    """A mistake in the configuration, said in one line."""


class InUse(ValueError):
    """Another process works on the run."""


class RunError(Exception):
    """Ends a run with one line and exit code 1: the command is right, but the run cannot go on."""


class Interrupted(BaseException):
    """The run was asked to end; the same command goes on from there. code: exit code, 128 + the signal's number."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks, and its kind where that is not one of ours."""
    text = " ".join(str(error).split())
    if isinstance(error, RunError | Interrupted | ValueError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def shown(value: object, most: int = 100) -> str:
    """A value in a message: one line of printable characters, cut where it is long."""
    text = " ".join(str(value).split())
    text = text if len(text) <= most else f"{text[: most - 3]}..."
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def reason(error: BaseException) -> str:
    """What went wrong, in one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return shown(text or type(error).__name__, 200)
