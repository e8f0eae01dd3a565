"""Checks a composed configuration against the constructors it names, without importing them (torch takes seconds).

The constructors are the schema: argument names, and the types and literals of their annotations, are read from the
source. A `_target_` is limited to this project's packages unless the user names another on the command line, and there
to classes, and functions that load a backbone, which a module itself defines: not what it has imported.
"""

import ast
import difflib
import importlib
import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mtdiff.errors import ConfigError
from mtdiff.files import shown

PACKAGES = ("mtdiff", "baselines")
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


@dataclass(frozen=True)
class Argument:
    name: str
    annotation: ast.expr | None
    default: ast.expr | None = None

    @property
    def required(self) -> bool:
        return self.default is None


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
        made = "" if found.returns is None else named(found.returns, target.rpartition(".")[0])
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
        if argument.required and argument.name not in given:
            raise ConfigError(f"{key}.{argument.name}: has to be given, {describe(argument.annotation)}")


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


def signature(dotted: str, key: str = "") -> Iterator[Argument]:
    """Arguments of a function, of a class's `__init__`, or the fields of a dataclass, read from its source."""
    found, module = definition(dotted), dotted.rpartition(".")[0]
    if found is None:
        raise ConfigError(f"{key}._target_={shown(dotted)}: no such class or function")
    yield from inherited(found, module)
    for argument in arguments_of(found):
        yield replace(argument, annotation=unaliased(argument.annotation, definitions(module)))


def inherited(found: ast.ClassDef | ast.FunctionDef, module: str) -> Iterator[Argument]:
    """Arguments of the constructor of a base class, for a class that adds nothing to them."""
    if isinstance(found, ast.FunctionDef) or list(arguments_of(found)) or has_init(found):
        return
    for base in found.bases:
        dotted = named(base, module)
        if dotted.split(".")[0] in (*PACKAGES, module.split(".")[0]) and isinstance(definition(dotted), ast.ClassDef):
            yield from signature(dotted)
            return


def has_init(found: ast.ClassDef) -> bool:
    return any(isinstance(n, ast.FunctionDef) and n.name == "__init__" for n in found.body)


def definition(dotted: str) -> ast.ClassDef | ast.FunctionDef | None:
    """A class or function by the module that defines it (what that imports is not its own)."""
    module, _, name = dotted.rpartition(".")
    body = definitions(module)
    return next((n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name == name), None)


def descends(dotted: str, ancestor: str) -> bool:
    """Whether a class is `ancestor` or inherits from it, as far as this project's sources say."""
    if dotted == ancestor:
        return True
    found = definition(dotted) if dotted.split(".")[0] in PACKAGES else None
    if not isinstance(found, ast.ClassDef):
        return False
    module = dotted.rpartition(".")[0]
    return any(descends(named(base, module), ancestor) for base in found.bases)


def named(expression: ast.expr, module: str) -> str:
    """Dotted name of what a name means in a module: its own, or imported from elsewhere; empty for anything else."""
    if not isinstance(expression, ast.Name):
        return ""
    for node in definitions(module):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == expression.id:
                    return f"{node.module}.{alias.name}"
    return f"{module}.{expression.id}"


def arguments_of(definition: ast.ClassDef | ast.FunctionDef) -> Iterator[Argument]:
    if isinstance(definition, ast.FunctionDef):
        yield from parameters(definition)
        return
    init = [n for n in definition.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if init:
        yield from list(parameters(init[0]))[1:]
        return
    if not definition.decorator_list:  # no dataclass: annotated names are attributes
        return
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and "ClassVar" not in ast.dump(node):
            yield Argument(node.target.id, node.annotation, node.value)


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
    defaults = [*[None] * (len(positional) - len(args.defaults)), *args.defaults, *args.kw_defaults]
    for a, default in zip([*positional, *args.kwonlyargs], defaults, strict=True):
        yield Argument(a.arg, a.annotation, default)


@cache
def definitions(module: str) -> list[ast.stmt]:
    """Top-level statements of a module, which is located but not executed; none where there is no such module."""
    path = source_path(module)
    return [] if path is None else ast.parse(path.read_text(encoding="utf-8")).body


def source_path(module: str) -> Path | None:
    if not all(part.isidentifier() for part in module.split(".")):
        return None
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
    return "a value" if annotation is None else ast.unparse(annotation)
