"""Arguments of constructors, read from their source without importing it: torch takes seconds, a mistake none."""

import ast
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from mtdiff.errors import ConfigError, shown

PACKAGES = ("mtdiff", "baselines")


@dataclass(frozen=True)
class Argument:
    name: str
    annotation: ast.expr | None
    default: ast.expr | None = None

    @property
    def is_required(self) -> bool:
        return self.default is None


def signature(dotted: str, key: str = "") -> Iterator[Argument]:
    """Arguments of a function, of a class's `__init__`, or the fields of a dataclass, read from its source."""
    found, module = definition(dotted), dotted.rpartition(".")[0]
    if found is None:
        raise ConfigError(f"{key}._target_={shown(dotted)}: no such class or function")
    yield from inherited_arguments(found, module)
    for argument in list_arguments(found):
        yield replace(argument, annotation=resolve_alias(argument.annotation, definitions(module)))


def inherited_arguments(found: ast.ClassDef | ast.FunctionDef, module: str) -> Iterator[Argument]:
    """Arguments of the constructor of a base class, for a class that adds nothing to them."""
    if isinstance(found, ast.FunctionDef) or list(list_arguments(found)) or has_init(found):
        return
    for base in found.bases:
        dotted = resolve_name(base, module)
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
    return any(descends(resolve_name(base, module), ancestor) for base in found.bases)


def resolve_name(expression: ast.expr, module: str) -> str:
    """Dotted name of what a name means in a module: its own, or imported from elsewhere; empty for anything else."""
    if not isinstance(expression, ast.Name):
        return ""
    for node in definitions(module):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            for alias in node.names:
                if (alias.asname or alias.name) == expression.id:
                    return f"{node.module}.{alias.name}"
    return f"{module}.{expression.id}"


def list_arguments(definition: ast.ClassDef | ast.FunctionDef) -> Iterator[Argument]:
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


def resolve_alias(annotation: ast.expr | None, body: Sequence[ast.stmt]) -> ast.expr | None:
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
