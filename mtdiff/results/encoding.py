"""A result as JSON: short, with no number that JSON lacks, and without the paths of one machine."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtdiff.results.schema import LARGEST


def compact(text: str) -> str:
    """Indented JSON with every list of numbers on one line, and every mapping without another inside that fits."""
    number = r"(?:-?\d[-+.eE\d]*|null)"
    text = re.sub(rf"\[\s+{number}(?:,\s+{number})*\s+\]", lambda m: re.sub(r"\s+", " ", m[0]), text)
    return re.sub(r"\{\n[^{}]*\}", lambda m: join_lines(m[0]), text)  # breaks of lines are never inside a string


def join_lines(mapping: str, width: int = 100) -> str:
    short = re.sub(r"(?<=\{)\n\s*|\n\s*(?=\}$)", "", mapping)
    short = re.sub(r"\n\s*", " ", short)
    return short if len(short) <= width else mapping


def to_json(value: Any) -> Any:
    """Plain JSON values; a number that is not finite, or too large, becomes null."""
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return None
    return value


def strip_machine(value: Any) -> Any:
    """The same configuration with this machine's part of absolute paths removed: relative to here, or to `~`."""
    if isinstance(value, Mapping):
        return {k: strip_machine(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [strip_machine(v) for v in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and value.startswith("/"):
        return shorten_path(Path(value))
    return value


def shorten_path(path: Path) -> str:
    for root, prefix in ((Path.cwd(), Path()), (Path.home(), Path("~"))):
        if path.is_relative_to(root) and root != Path("/"):
            return str(prefix / path.relative_to(root))
    return str(path)
