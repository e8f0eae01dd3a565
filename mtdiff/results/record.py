"""One JSON per run: its schema, written atomically, validated when read, and where it came from. No torch here.

What is missing is null, never a number: a row without a value says why in `reason`.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from glob import glob
from pathlib import Path
from typing import Any, Literal, Self, get_args

from mtdiff.files import MEGABYTE, read_json, write_atomically

SCHEMA = 1
LARGEST = 1e60  # of a number: beyond, squares of squares, which intervals take, have no place in 64 bits
RUN = "run"  # the `model` of a row that judges the run's own outputs
Direction = Literal["lower", "higher"]
Status = Literal["complete", "failed", "interrupted"]


@dataclass(frozen=True)
class Row:
    """One metric of one task: a mean over n examples, or a number of the whole set, with its 95 % interval.

    model: `run`, or the name of a reference judged on the same examples (copy, bicubic, base, ...).
    reason: why `value` is missing. values: the n scores behind a mean, in the order of the test examples, null where
    the metric does not apply to one; they are what paired tests compare.
    """

    task: str
    metric: str
    direction: Direction
    value: float | None
    n: int
    low: float | None
    high: float | None
    model: str = RUN
    reason: str | None = None
    values: tuple[float | None, ...] | None = None


@dataclass(frozen=True)
class Result:
    """All that tables and notebooks read of a run.

    seconds: {train, eval}. params: {trainable, total, total_for_all_tasks}.
    cost: {flops, flops_no_attn, latency_ms {median, p95}, peak_memory_mb}; `flops` counts 2 per multiply-add.
    method_report: what the method and its training tell of themselves (`mtdiff/runs/method_report.py`); may be empty.
    """

    method: str
    backbone: str
    data: str
    tasks: list[str]
    seed: int
    status: Status = "complete"
    schema: int = SCHEMA
    config: dict[str, Any] = field(default_factory=dict)
    git: dict[str, Any] = field(default_factory=lambda: {"commit": None, "dirty": None})
    versions: dict[str, str] = field(default_factory=dict)
    device: str = ""
    steps: int = 0
    samples_seen: int = 0
    seconds: dict[str, float | None] = field(default_factory=lambda: _blank(SPEC["seconds"]))
    params: dict[str, int | None] = field(default_factory=lambda: _blank(SPEC["params"]))
    cost: dict[str, Any] = field(default_factory=lambda: _blank(SPEC["cost"]))
    rows: list[Row] = field(default_factory=list)
    method_report: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def save(self, path: Path) -> None:
        """Write the whole file or nothing. Numbers that are not finite become null; paths lose this machine's part."""
        rows = [asdict(_measured(row)) for row in self.rows]
        content = _cleaned({**asdict(self), "config": portable(self.config), "rows": rows})
        for error in errors(content, SPEC):
            raise ValueError(f"{path}: {error}")
        write_atomically(path, compact(json.dumps(content, indent=1, allow_nan=False)) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate; ValueError in one line names the file, the key and what is expected."""
        content = _parse(path)
        found = content.get("schema") if isinstance(content, dict) else None
        if found != SCHEMA or isinstance(found, bool):
            raise ValueError(f"{path}: key `schema`: expected {SCHEMA}, got {found!r}")
        for error in errors(content, SPEC):
            raise ValueError(f"{path}: {error}")
        return cls(**{**content, "rows": [_row(row) for row in content["rows"]]})


def _row(content: dict[str, Any]) -> Row:
    values = content.get("values")
    return Row(**{**content, "values": None if values is None else tuple(values)})


@dataclass(frozen=True)
class Found:
    """A result file: what it holds, or why it cannot be read."""

    path: Path
    result: Result | None
    reason: str | None = None


def find(patterns: str) -> list[Found]:
    """What glob patterns (several with commas between) find, in the order of the paths, each file once."""
    paths = [path for pattern in patterns.split(",") for path in sorted(glob(pattern, recursive=True))]
    return [_found(Path(path)) for path in dict.fromkeys(paths)]


def _found(path: Path) -> Found:
    try:
        return Found(path, Result.load(path))
    except (ValueError, OSError) as error:
        return Found(path, None, str(error).removeprefix(f"{path}: "))


def collect(patterns: str) -> list[Result]:
    """The results that glob patterns find; a file that cannot be read is an error."""
    return [Result.load(one.path) for one in find(patterns)]


# Validation


@dataclass(frozen=True)
class Kind:
    """A leaf of the schema: what is expected there, in words and as a test."""

    expected: str
    accepts: Callable[[Any], bool]
    optional: bool = False


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= LARGEST


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 0


def _are_scores(x: Any) -> bool:
    return isinstance(x, list) and all(i is None or _is_number(i) for i in x)


def _choice(options: Any) -> Kind:
    return Kind("one of " + ", ".join(get_args(options)), lambda x: x in get_args(options))


def _texts(x: Any) -> bool:
    return isinstance(x, list) and all(isinstance(i, str) for i in x)


TEXT = Kind("a text", lambda x: isinstance(x, str))
WHOLE = Kind("a whole number", lambda x: isinstance(x, int) and not isinstance(x, bool))
COUNT = Kind("a whole number of at least 0", _is_count)
COUNT_OR_NULL = Kind("a whole number of at least 0, or null", lambda x: x is None or _is_count(x))
NUMBER_OR_NULL = Kind("a finite number or null", lambda x: x is None or _is_number(x))
MAPPING = Kind("a mapping", lambda x: isinstance(x, dict))

ROW: dict[str, Any] = {
    "task": TEXT,
    "metric": TEXT,
    "direction": _choice(Direction),
    "value": NUMBER_OR_NULL,
    "n": COUNT,
    "low": NUMBER_OR_NULL,
    "high": NUMBER_OR_NULL,
    "model": Kind("a text", TEXT.accepts, optional=True),
    "reason": Kind("a text or null", lambda x: x is None or isinstance(x, str), optional=True),
    "values": Kind("a list of numbers and nulls, or null", lambda x: x is None or _are_scores(x), optional=True),
}
SPEC: dict[str, Any] = {
    "schema": Kind(str(SCHEMA), lambda x: x == SCHEMA),
    "status": _choice(Status),
    "method": TEXT,
    "backbone": TEXT,
    "data": TEXT,
    "tasks": Kind("a list of texts", _texts),
    "seed": WHOLE,
    "config": MAPPING,
    "git": {
        "commit": Kind("a text or null", lambda x: x is None or isinstance(x, str)),
        "dirty": Kind("true, false or null", lambda x: x is None or isinstance(x, bool)),
    },
    "versions": Kind("a mapping of texts", lambda x: isinstance(x, dict) and _texts(list(x.values()))),
    "device": TEXT,
    "steps": COUNT,
    "samples_seen": COUNT,
    "seconds": {"train": NUMBER_OR_NULL, "eval": NUMBER_OR_NULL},
    "params": {"trainable": COUNT_OR_NULL, "total": COUNT_OR_NULL, "total_for_all_tasks": COUNT_OR_NULL},
    "cost": {
        "flops": NUMBER_OR_NULL,
        "flops_no_attn": NUMBER_OR_NULL,
        "latency_ms": {"median": NUMBER_OR_NULL, "p95": NUMBER_OR_NULL},
        "peak_memory_mb": NUMBER_OR_NULL,
    },
    "rows": [ROW],
    "method_report": Kind("a mapping", lambda x: isinstance(x, dict), optional=True),
    "error": Kind("a text or null", ROW["reason"].accepts, optional=True),
}


def _blank(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The same nesting with null at every leaf."""
    return {k: _blank(v) if isinstance(v, dict) else None for k, v in spec.items()}


def errors(value: Any, spec: Any, key: str = "") -> Iterator[str]:
    """One line for everything in `value` that the schema does not expect, in the order of the schema."""
    if isinstance(spec, Kind):
        if not spec.accepts(value):
            yield f"key `{key}`: expected {spec.expected}, got {_short(value)}"
    elif isinstance(spec, list):
        if not isinstance(value, list):
            yield f"key `{key}`: expected a list, got {_short(value)}"
            return
        for i, item in enumerate(value):
            yield from errors(item, spec[0], f"{key}[{i}]")
    else:
        yield from _mapping_errors(value, spec, key)


def _mapping_errors(value: Any, spec: dict[str, Any], key: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"key `{key}`: expected a mapping, got {_short(value)}"
        return
    prefix = f"{key}." if key else ""
    for unknown in sorted(value.keys() - spec.keys()):
        yield f"key `{prefix}{unknown}`: unknown, expected {', '.join(spec)}"
    for name, inner in spec.items():
        if name in value:
            yield from errors(value[name], inner, prefix + name)
        elif not (isinstance(inner, Kind) and inner.optional):
            yield f"key `{prefix}{name}`: missing, expected {_describe(inner)}"
    if spec is ROW and "value" in value and value["value"] is None and not value.get("reason"):
        yield f"key `{prefix}reason`: expected a text, since `value` is null"


def _describe(spec: Any) -> str:
    return spec.expected if isinstance(spec, Kind) else "a list" if isinstance(spec, list) else "a mapping"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _parse(path: Path) -> Any:
    return read_json(path, 64 * MEGABYTE)


# Writing


def compact(text: str) -> str:
    """Indented JSON with every list of numbers on one line, and every mapping without another inside that fits."""
    number = r"(?:-?\d[-+.eE\d]*|null)"
    text = re.sub(rf"\[\s+{number}(?:,\s+{number})*\s+\]", lambda m: re.sub(r"\s+", " ", m[0]), text)
    return re.sub(r"\{\n[^{}]*\}", lambda m: on_one_line(m[0]), text)  # breaks of lines are never inside a string


def on_one_line(mapping: str, width: int = 100) -> str:
    short = re.sub(r"(?<=\{)\n\s*|\n\s*(?=\}$)", "", mapping)
    short = re.sub(r"\n\s*", " ", short)
    return short if len(short) <= width else mapping


def _measured(row: Row) -> Row:
    """The row itself, or without a value and with the reason where its value is no number that can be compared."""
    if row.value is None or abs(row.value) <= LARGEST:
        return row
    return replace(row, value=None, low=None, high=None, reason=row.reason or f"the value was {row.value}")


def _cleaned(value: Any) -> Any:
    """Plain JSON values; a number that is not finite, or too large, becomes null."""
    if isinstance(value, Mapping):
        return {str(k): _cleaned(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(v) for v in value]
    if isinstance(value, float) and not abs(value) <= LARGEST:
        return None
    return value


def portable(value: Any) -> Any:
    """The same configuration with this machine's part of absolute paths removed: relative to here, or to `~`."""
    if isinstance(value, Mapping):
        return {k: portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [portable(v) for v in value]
    if isinstance(value, Path):
        value = str(value)
    if isinstance(value, str) and value.startswith("/"):
        return _shortened(Path(value))
    return value


def _shortened(path: Path) -> str:
    for root, prefix in ((Path.cwd(), "."), (Path.home(), "~")):
        if path.is_relative_to(root) and root != Path("/"):
            relative = path.relative_to(root)
            return str(relative) if prefix == "." else str(Path(prefix) / relative)
    return str(path)
