"""What values an annotation allows: whether one fits, which part of it does not, and what is expected, in words."""

import ast
import math
from collections.abc import Mapping
from typing import Any


def fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a configuration value can be what the annotation says; annotations not known here accept anything."""
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(value, left) or fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="Literal"), slice=content):
            return any(type(value) is type(known) and value == known for known in literals(content))
        case ast.Subscript(value=ast.Name(id="Sequence" | "list" | "tuple"), slice=content):
            items = content.elts if isinstance(content, ast.Tuple) else [content]
            many = len(items) == 1 or isinstance(items[-1], ast.Constant)  # tuple[X, ...]
            if not isinstance(value, list | tuple) or not (many or len(value) == len(items)):
                return False
            return all(fits(v, items[0] if many else items[i]) for i, v in enumerate(value))
        case ast.Subscript(value=ast.Name(id="Mapping" | "dict"), slice=ast.Tuple(elts=[_, inner])):
            return isinstance(value, Mapping) and ("_target_" in value or all(fits(v, inner) for v in value.values()))
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool) and finite(value)
        case ast.Name(id="str"):
            return isinstance(value, str)
    return True


def misfit(key: str, value: Any, annotation: ast.expr) -> tuple[str, Any, ast.expr]:
    """What exactly does not fit: the first such entry of a mapping, else the value itself."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Mapping" | "dict"), slice=ast.Tuple(elts=[_, inner])):
            for name, child in value.items() if isinstance(value, Mapping) else ():
                if not fits(child, inner):
                    return misfit(f"{key}.{name}", child, inner)
    return key, value, annotation


def finite(value: float) -> bool:
    """Whether a number is finite as a float (a whole number may be too large for one)."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def literals(content: ast.expr) -> list[Any]:
    return [ast.literal_eval(e) for e in (content.elts if isinstance(content, ast.Tuple) else [content])]


def describe(annotation: ast.expr | None) -> str:
    """An annotation in a user's words."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=content):
            return "one of " + ", ".join(map(str, literals(content)))
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return f"{describe(left)}, or null"
        case ast.Subscript(value=ast.Name(id="Sequence" | "list"), slice=content):
            return f"a list, each {describe(content)}"
        case ast.Subscript(value=ast.Name(id="tuple"), slice=ast.Tuple(elts=[*items])) if len(items) > 1:
            return f"a list of {len(items)}, each {describe(items[0])}"
        case ast.Subscript(value=ast.Name(id="Mapping" | "dict"), slice=ast.Tuple(elts=[_, inner])):
            return f"a mapping, each value {describe(inner)}"
        case ast.Name(id=("int" | "float" | "bool" | "str") as name):
            words = {"int": "a whole number", "float": "a finite number", "bool": "true or false", "str": "a text"}
            return words[name]
        case ast.Name(id="Any"):
            return "of any kind"
    return "a value" if annotation is None else ast.unparse(annotation)
