"""Result files that patterns find: what each holds, or why reports leave it out. No torch here."""

from dataclasses import dataclass
from glob import glob
from pathlib import Path

from mtdiff.results.oddities import list_oddities
from mtdiff.results.record import Result


@dataclass(frozen=True)
class Found:
    """A result file: what it holds, or why it cannot be read or stands in no report."""

    path: Path
    result: Result | None
    reason: str | None = None


def find(patterns: str) -> list[Found]:
    """What glob patterns (several with commas between) find, in the order of the paths, each file once."""
    paths = [path for pattern in patterns.split(",") for path in sorted(glob(pattern, recursive=True))]
    return [try_to_load(Path(path)) for path in dict.fromkeys(paths)]


def try_to_load(path: Path) -> Found:
    try:
        result = Result.load(path)
    except (ValueError, OSError) as error:
        return Found(path, None, str(error).removeprefix(f"{path}: "))
    oddity = next(list_oddities(result), None)
    return Found(path, result if oddity is None else None, oddity)
