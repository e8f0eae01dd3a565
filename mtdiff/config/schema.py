"""Checks a composed configuration against the constructors it names, without importing them (torch takes seconds).

The constructors are the schema: argument names, and the types and literals of their annotations, are read from the
source. A `_target_` is limited to this project's packages unless the user names another on the command line, and there
to classes, and functions that load a backbone, which a module itself defines: not what it has imported.
"""

import ast
import difflib
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtdiff.config.annotations import describe, fits, misfit
from mtdiff.config.signatures import PACKAGES, Argument, definition, descends, resolve_name, signature
from mtdiff.errors import ConfigError, shown

BACKBONE = "mtdiff.backbones.base.Backbone"
KINDS = {
    "method": "mtdiff.methods.base.Method",
    "backbone": BACKBONE,
    "data": "mtdiff.data.source.Source",
    "metrics": "mtdiff.metrics.suites.Suite",
    "balancing": "mtdiff.training.balancing.Balancing",
    "balancing.weighting": "mtdiff.training.balancing.Weighting",
}
"""What the classes at some places of a configuration must be; those below `task` are tasks."""
TASK = "mtdiff.tasks.base.Task"
SECTIONS = {name.lower(): f"mtdiff.config.settings.{name}" for name in ("Training", "Speed", "Sampling", "Evaluation")}
"""Parts of a configuration that are the fields of a dataclass."""


def construct(node: Any) -> Any:
    """Plain objects from a checked `_target_` node; what a constructor refuses is a mistake in the configuration.

    Not `hydra.utils.instantiate`: that resolves `${...}` in every text first and constructs what comes of it unchecked.
    """
    if isinstance(node, list | tuple):
        return [construct(child) for child in node]
    if not isinstance(node, Mapping):
        return node
    given = {str(name): construct(child) for name, child in node.items() if name != "_target_"}
    if "_target_" not in node:
        return given
    module, _, name = str(node["_target_"]).rpartition(".")
    made = getattr(importlib.import_module(module), name)
    try:
        return made(**given)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def refuse(key: str, value: object, allowed: Iterable[object]) -> ConfigError:
    """The one line: key, value, allowed values, and the nearest of them."""
    names = [str(a) for a in allowed]
    return ConfigError(f"{key}={shown(value)}: expected one of {', '.join(names)}{nearest(value, names)}")


def nearest(value: object, names: Iterable[str]) -> str:
    """A hint at what may have been meant, or nothing."""
    near = difflib.get_close_matches(str(value)[:100], list(names), 1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def check(node: object, key: str = "", packages: Sequence[str] = PACKAGES) -> None:
    """Check every `_target_` node below `node`: its package, its arguments' names, types and literals."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            check_call(key, node, packages)
        for name, child in node.items():
            check(child, f"{key}.{name}" if key else str(name), packages)
    elif isinstance(node, list | tuple):
        for i, child in enumerate(node):
            check(child, f"{key}[{i}]", packages)


def check_call(key: str, node: Mapping[Any, Any], packages: Sequence[str] = PACKAGES) -> None:
    target = str(node["_target_"])
    package = target.split(".")[0]
    if package not in packages:
        raise ConfigError(
            f"{key}._target_={shown(target)}: only classes of {', '.join(packages)} are constructed; name another "
            f"package with packages=[{shown(package)}] if you trust it"
        )
    arguments = list(signature(target, key))
    if package in PACKAGES:
        check_kind(key, target)
    check_arguments(key, arguments, {str(k): v for k, v in node.items() if k != "_target_"})


def check_kind(key: str, target: str) -> None:
    """Refuse functions that load no backbone, and classes that are not what belongs at `key`."""
    found, made = definition(target), target
    if isinstance(found, ast.FunctionDef):
        made = "" if found.returns is None else resolve_name(found.returns, target.rpartition(".")[0])
        if not descends(made, BACKBONE):
            raise ConfigError(f"{key}._target_={target}: is a function, expected a class or what loads a backbone")
    kind = TASK if key.startswith("task.") and key.count(".") == 1 else KINDS.get(key)
    if kind is not None and not descends(made, kind):
        raise ConfigError(f"{key}._target_={target}: expected a {kind.rpartition('.')[2]} ({kind})")


def check_arguments(key: str, arguments: Sequence[Argument], given: Mapping[str, Any]) -> None:
    known = {a.name: a for a in arguments}
    for name, value in given.items():
        if name not in known:
            what, options = f"{key}.{shown(name)}={shown(value)}", ", ".join(known) or "none"
            raise ConfigError(f"{what}: no such option{nearest(name, known)}; {key} has {options}")
        annotation = known[name].annotation
        if annotation is not None and not fits(value, annotation):
            where, wrong, expected = misfit(f"{key}.{name}", value, annotation)
            raise ConfigError(f"{where}={shown(wrong)}: expected {describe(expected)}")
    for argument in arguments:
        if argument.is_required and argument.name not in given:
            raise ConfigError(f"{key}.{argument.name}: has to be given, {describe(argument.annotation)}")
