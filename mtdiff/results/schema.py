"""What a file may hold, said once in a class's annotations: `name: Annotated[type, what is accepted, its meaning]`.

What is accepted is a `Kind` for a leaf, a class of such annotations for a mapping, `[class]` for a list of mappings.
Validation, blank values and the documentation all come from there. No torch here.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_args, get_type_hints

LARGEST = 1e60  # of a number: beyond, squares of squares, which intervals take, have no place in 64 bits
LONGEST = 200  # characters of a name


@dataclass(frozen=True)
class Kind:
    """A leaf of a schema: what is expected there, in words and as a test. optional: the key may be missing."""

    expected: str
    accepts: Callable[[Any], bool]
    optional: bool = False


def is_whole(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def is_number(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= LARGEST


def is_text(x: Any) -> bool:
    return isinstance(x, str)


def is_name(x: Any) -> bool:
    return isinstance(x, str) and x.isprintable() and 0 < len(x) <= LONGEST


def list_of(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda x: isinstance(x, list) and all(accepts(i) for i in x)


def or_null(kind: Kind, joined: str = " or null") -> Kind:
    return replace(kind, expected=kind.expected + joined, accepts=lambda x: x is None or kind.accepts(x))


def choice(options: Any) -> Kind:
    """One of the values of a `Literal`."""
    return Kind("one of " + ", ".join(get_args(options)), lambda x: x in get_args(options))


TEXT = Kind("a text", is_text)
NAME = Kind(f"a text of 1 to {LONGEST} printable characters", is_name)
NAMES = Kind("a list of texts", list_of(is_name))
WHOLE = Kind("a whole number", is_whole)
COUNT = Kind("a whole number of at least 0", lambda x: is_whole(x) and x >= 0)
COUNT_OR_NULL = or_null(COUNT, ", or null")
NUMBER_OR_NULL = or_null(Kind("a finite number", is_number))
SCORES = or_null(Kind("a list of numbers and nulls", list_of(lambda x: x is None or is_number(x))), ", or null")
TRUTH_OR_NULL = Kind("true, false or null", lambda x: x is None or isinstance(x, bool))
MAPPING = Kind("a mapping", lambda x: isinstance(x, dict))
PARTS = Kind("a list of mappings", list_of(lambda x: isinstance(x, dict)))
VERSIONS = Kind("a mapping of texts", lambda x: isinstance(x, dict) and all(map(is_text, x.values())))


def optional(kind: Kind) -> Kind:
    return replace(kind, optional=True)


@cache
def fields_of(schema: type) -> dict[str, tuple[Any, str]]:
    """Key -> (what is accepted there, its meaning)."""
    return {name: hint.__metadata__ for name, hint in get_type_hints(schema, include_extras=True).items()}


def blank(schema: type) -> dict[str, Any]:
    """The same nesting with null at every leaf."""
    return {k: blank(v) if isinstance(v, type) else None for k, (v, _) in fields_of(schema).items()}


# Validation


def list_errors(value: Any, spec: Any, key: str = "") -> Iterator[str]:
    """One line for everything in `value` that the schema does not expect, in the order of the schema."""
    kind = MAPPING if isinstance(spec, type) else Kind("a list", list_of(lambda _: True))
    kind = spec if isinstance(spec, Kind) else kind
    if not kind.accepts(value):
        large = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > LARGEST
        limit = f", of at most {LARGEST:g}" if large else ""
        yield f"key `{key}`: expected {kind.expected}{limit}, got {_short(value)}"
    elif isinstance(spec, list):
        for i, item in enumerate(value):
            yield from list_errors(item, spec[0], f"{key}[{i}]")
    elif isinstance(spec, type):
        yield from _list_mapping_errors(value, spec, f"{key}." if key else "")


def _list_mapping_errors(value: dict[str, Any], schema: type, prefix: str) -> Iterator[str]:
    fields = fields_of(schema)
    for unknown in sorted(value.keys() - fields.keys()):
        yield f"key `{prefix}{unknown}`: unknown, expected {', '.join(fields)}"
    for name, (spec, _) in fields.items():
        if name in value:
            yield from list_errors(value[name], spec, prefix + name)
        elif not (isinstance(spec, Kind) and spec.optional):
            yield f"key `{prefix}{name}`: missing, expected {_describe(spec)}"
    if {"value", "reason"} <= fields.keys() and value.get("value", 0) is None and not value.get("reason"):
        yield f"key `{prefix}reason`: expected a text, since `value` is null"


def _describe(spec: Any) -> str:
    return spec.expected if isinstance(spec, Kind) else "a list" if isinstance(spec, list) else "a mapping"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# Documentation


def document(schema: type, prefix: str = "") -> Iterator[str]:
    """A line of a Markdown table for every key, those of inner mappings below theirs."""
    for name, (spec, meaning) in fields_of(schema).items():
        missing = "; may be missing" if isinstance(spec, Kind) and spec.optional else ""
        yield f"| `{prefix}{name}` | {_describe(spec)}{missing} | {meaning} |"
        inner = spec[0] if isinstance(spec, list) else spec
        if isinstance(inner, type):
            yield from document(inner, f"{prefix}{name}[]." if isinstance(spec, list) else f"{prefix}{name}.")
