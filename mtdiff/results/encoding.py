"""A result as JSON: short, with no number that JSON lacks, and without the paths of one machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mtdiff.results.schema import LARGEST


def write_lines(value: Any, levels: int = 2) -> str:
    """JSON with an entry a line in the outer `levels`, and what is deeper on the line of its entry."""
    if levels == 0 or not isinstance(value, Mapping | list) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    if isinstance(value, Mapping):
        return "{\n" + ",\n".join(f"{json.dumps(k)}:{write_lines(v, levels - 1)}" for k, v in value.items()) + "\n}"
    return "[\n" + ",\n".join(write_lines(v, levels - 1) for v in value) + "\n]"


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
