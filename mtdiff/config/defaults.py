"""Configurations of any age: options that one does not name stand at the defaults of their constructors."""

import ast
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from mtdiff.config.schema import SECTIONS
from mtdiff.config.signatures import PACKAGES, definition, signature

Change = Callable[[Mapping[str, Any], Mapping[str, Any]], dict[str, Any]]  # node, defaults -> node


def fill_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of any age, with the options that it does not know at today's defaults of their constructors."""
    return change_nodes(config, lambda node, defaults: {**node, **{k: v for k, v in defaults.items() if k not in node}})


def strip_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The same configuration without the options that are at their defaults: a new one changes nothing in it."""
    missing = object()
    return change_nodes(config, lambda node, defaults: {k: v for k, v in node.items() if defaults.get(k, missing) != v})


def change_nodes(config: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """Change every part of a configuration that is a constructor's arguments, inner ones first."""
    return {
        name: change_node(walk_nodes(node, change), SECTIONS[name], change)
        if name in SECTIONS
        else walk_nodes(node, change)
        for name, node in config.items()
    }


def walk_nodes(node: Any, change: Change) -> Any:
    if isinstance(node, list | tuple):
        return [walk_nodes(child, change) for child in node]
    if not isinstance(node, Mapping):
        return node
    inner = {name: walk_nodes(child, change) for name, child in node.items()}
    return change_node(inner, str(inner["_target_"]), change) if "_target_" in inner else inner


def change_node(node: Any, dotted: str, change: Change) -> Any:
    """A node changed by its defaults, as far as the source is this project's and says them literally."""
    if not isinstance(node, Mapping) or dotted.split(".")[0] not in PACKAGES or definition(dotted) is None:
        return node
    return change(node, literal_defaults(dotted))


@cache
def literal_defaults(dotted: str) -> dict[str, Any]:
    return {a.name: a.default.value for a in signature(dotted) if isinstance(a.default, ast.Constant)}
