"""Checks a composed configuration against the constructors it names, without importing them (torch takes seconds).

The constructors are the schema: argument names, and the types and literals of their annotations, are read from the
source. A `_target_` is limited to this project's packages unless the user names another on the command line.
"""

import ast
import difflib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

PACKAGES = ("mtdiff", "baselines")


class ConfigError(ValueError):
    """A mistake in the configuration, said in one line."""


@dataclass(frozen=True)
class Argument:
    name: str
    annotation: ast.expr | None
    required: bool


def construct(node: Any) -> Any:
    """Plain objects from a checked `_target_` node; what a constructor refuses is a mistake in the configuration."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise ConfigError(str(error.__cause__)) from None
        raise


def refuse(key: str, value: object, allowed: Iterable[object]) -> ConfigError:
    """The one line: key, value, allowed values, and the nearest of them."""
    names = [str(a) for a in allowed]
    return ConfigError(f"{key}={value}: expected one of {', '.join(names)}{nearest(value, names)}")


def nearest(value: object, names: Iterable[str]) -> str:
    """A hint at what may have been meant, or nothing."""
    near = difflib.get_close_matches(str(value), list(names), 1)
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
    if target.split(".")[0] not in packages:
        raise ConfigError(
            f"{key}._target_={target}: only classes of {', '.join(packages)} are constructed; name another package "
            f"with packages=[{target.split('.')[0]}] if you trust it"
        )
    given = {str(k): v for k, v in node.items() if k not in ("_target_", "_partial_")}
    check_arguments(key, list(signature(target, key)), given)


def check_arguments(key: str, arguments: Sequence[Argument], given: Mapping[str, Any]) -> None:
    known = {a.name: a for a in arguments}
    for name, value in given.items():
        if name not in known:
            options = ", ".join(known) or "none"
            raise ConfigError(f"{key}.{name}={value}: no such option{nearest(name, known)}; {key} has {options}")
        annotation = known[name].annotation
        if annotation is not None and not fits(value, annotation):
            raise ConfigError(f"{key}.{name}={value}: expected {describe(annotation)}")
    for argument in arguments:
        if argument.required and argument.name not in given:
            raise ConfigError(f"{key}.{argument.name}: has to be given, {describe(argument.annotation)}")


def signature(dotted: str, key: str = "") -> Iterator[Argument]:
    """Arguments of a function, of a class's `__init__`, or the fields of a dataclass, read from its source."""
    module, _, name = dotted.rpartition(".")
    body = definitions(module)
    definition = next((n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name), None)
    if definition is None:
        raise ConfigError(f"{key}._target_={dotted}: no such class or function")
    for argument in arguments_of(definition):
        yield replace(argument, annotation=unaliased(argument.annotation, body))


def arguments_of(definition: ast.ClassDef | ast.FunctionDef) -> Iterator[Argument]:
    if isinstance(definition, ast.FunctionDef):
        yield from parameters(definition)
        return
    init = [n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if init:
        yield from list(parameters(init[0]))[1:]
        return
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "ClassVar" not in ast.dump(node):
            yield Argument(node.target.id, node.annotation, node.value is None)


def unaliased(annotation: ast.expr | None, body: Sequence[ast.stmt]) -> ast.expr | None:
    """An annotation that is the name of a module-level assignment (`Kind = Literal[...]`) stands for its value."""
    if isinstance(annotation, ast.Name):
        for node in body:
            if isinstance(node, ast.Assign) and any(
                isinstance(t, ast.Name) and t.id == annotation.id for t in node.targets
            ):
                return node.value
    return annotation


def parameters(function: ast.FunctionDef) -> Iterator[Argument]:
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    first_default = len(positional) - len(args.defaults)
    for i, a in enumerate(positional):
        yield Argument(a.arg, a.annotation, i < first_default)
    for a, default in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        yield Argument(a.arg, a.annotation, default is None)


def definitions(module: str) -> list[ast.stmt]:
    """Top-level statements of a module, which is located but not executed; none where there is no such module."""
    path = source_path(module)
    return [] if path is None else ast.parse(path.read_text(encoding="utf-8")).body


def source_path(module: str) -> Path | None:
    package, _, rest = module.partition(".")
    spec = importlib.util.find_spec(package) if package else None  # a top-level name: nothing is imported
    if spec is None or spec.origin is None:
        return None
    if not rest:
        return Path(spec.origin)
    base = Path(spec.origin).parent.joinpath(*rest.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.exists()), None)


def fits(value: Any, annotation: ast.expr) -> bool:
    """Whether a configuration value can be what the annotation says; annotations not known here accept anything."""
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    match annotation:
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return fits(value, left) or fits(value, right)
        case ast.Constant(value=None):
            return value is None
        case ast.Subscript(value=ast.Name(id="Literal"), slice=content):
            return value in literals(content)
        case ast.Subscript(value=ast.Name(id="Sequence" | "list" | "tuple"), slice=content):
            items = content.elts if isinstance(content, ast.Tuple) else [content]
            return isinstance(value, list | tuple) and all(fits(v, items[0]) for v in value)
        case ast.Subscript(value=ast.Name(id="Mapping" | "dict")):
            return isinstance(value, Mapping)
        case ast.Name(id="bool"):
            return isinstance(value, bool)
        case ast.Name(id="int"):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Name(id="float"):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.Name(id="str"):
            return isinstance(value, str)
    return True


def literals(content: ast.expr) -> list[Any]:
    return [ast.literal_eval(e) for e in (content.elts if isinstance(content, ast.Tuple) else [content])]


def describe(annotation: ast.expr | None) -> str:
    """An annotation in a user's words."""
    match annotation:
        case ast.Subscript(value=ast.Name(id="Literal"), slice=content):
            return "one of " + ", ".join(map(str, literals(content)))
        case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Constant(value=None)):
            return f"{describe(left)}, or null"
        case ast.Name(id=("int" | "float" | "bool" | "str") as name):
            words = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}
            return words[name]
    return "a value" if annotation is None else ast.unparse(annotation)
