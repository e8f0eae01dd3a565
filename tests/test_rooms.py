"""The rooms of the house: what may import what, no circles, and nothing but the ground at the top of the library."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"types", "rng", "errors", "provenance", "files"}  # the last one a folder
ALLOWED: dict[str, set[str]] = {  # room -> rooms that it may import beside itself and the ground
    "config": set(),
    "tasks": set(),
    "backbones": set(),
    "data": {"tasks"},
    "methods": {"backbones"},
    "model": {"methods", "backbones"},
    "results": {"config"},
    "metrics": {"results"},
    "costs": {"model", "tasks", "backbones"},
    "training": {"model", "data", "results", "config", "backbones"},
}
ALLOWED["runs"] = set(ALLOWED)
ALLOWED["commands"] = set(ALLOWED)
FACE = {"mtdiff": {"runs"}}  # the package itself offers load_run
OUTSIDE = {"baselines", "experiments", "analysis", "tests"}

Graph = Mapping[str, set[str]]


def sources(package: Path) -> dict[str, Path]:
    """The modules of a package by their dotted names."""
    found = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    """Dotted names that a file imports anywhere, inside functions too: modules of ours, and packages of others."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = resolve_source(node, path)
            inner = [f"{source}.{alias.name}" for alias in node.names]
            names = [name if name in modules else source for name in inner]
        else:
            continue
        yield from (name if name.startswith("mtdiff.") else name.split(".")[0] for name in names)


def resolve_source(node: ast.ImportFrom, path: Path) -> str:
    """The dotted name of what a `from` import reads, also of a relative one."""
    if node.level == 0:
        return str(node.module)
    folder = path.parents[node.level - 1]
    names = [folder.name, *([node.module] if node.module else [])]
    while (folder.parent / "__init__.py").exists():
        folder = folder.parent
        names.insert(0, folder.name)
    return ".".join(names)


def graph(package: Path) -> dict[str, set[str]]:
    modules = sources(package)
    return {name: set(imported(path, modules)) - {name} for name, path in modules.items()}


def room(module: str) -> str:
    """`model` of `mtdiff.model.denoiser`; the ground and the package itself are rooms of one module each."""
    return module.split(".")[1] if "." in module else module


def forbidden(arrows: Graph) -> list[str]:
    """Imports of one of our rooms, or of what uses the library, that no direction allows."""
    found = []
    for module, targets in sorted(arrows.items()):
        for target in sorted(targets):
            here, there = room(module), room(target)
            ours = target.split(".")[0] == "mtdiff"
            if not ours and there not in OUTSIDE:
                continue
            rooms = set() if here in GROUND else {here} | ALLOWED.get(here, FACE.get(here, set()))
            if there not in GROUND | rooms:
                found.append(f"{module} -> {target}")
    return found


def circle(arrows: Graph) -> list[str]:
    """Modules that import each other in a circle, or none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done or module not in arrows:
            return []
        for target in sorted(arrows[module]):
            found = visit(target, [*path, module])
            if found:
                return found
        done.add(module)
        return []

    return next((found for module in sorted(arrows) if (found := visit(module, []))), [])


ARROWS = graph(ROOT / "mtdiff")


def test_imports_go_one_way() -> None:
    assert forbidden(ARROWS) == []


def test_no_module_imports_itself_in_a_circle() -> None:
    assert circle({name: targets - {"mtdiff"} for name, targets in ARROWS.items()}) == []


def test_the_top_holds_the_ground_and_the_rooms() -> None:
    top = ROOT / "mtdiff"
    assert {path.stem for path in top.glob("*.py")} == (GROUND - {"files"}) | {"__init__"}
    assert {path.parent.name for path in top.glob("*/__init__.py")} == {*ALLOWED, "files"}


def test_the_readme_lists_the_house_as_it_is() -> None:
    listing = re.search(r"```\n(mtdiff/ .*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    assert listing is not None
    first, rooms, *others = listing[1].splitlines()
    assert set(first.removeprefix("mtdiff/").partition(":")[0].replace(",", "").replace("/", "").split()) == GROUND
    assert set(rooms.split()) == {f"{room}/" for room in ALLOWED}
    named = {line.split()[0]: set(re.findall(r"\b(\w+)/", line.partition(" ")[2])) for line in others}
    assert set(named) == {"baselines/", "experiments/", "analysis/", "tests/", "docs/"}
    folders = {path.name for path in (ROOT / "experiments").iterdir() if path.is_dir() and path.name[0] not in "_."}
    assert named["experiments/"] == folders


def test_baselines_use_the_library_and_nothing_above_it() -> None:
    arrows = graph(ROOT / "baselines")
    above = {"experiments", "analysis", "tests"}
    assert [f"{m} -> {t}" for m, targets in arrows.items() for t in targets if t.split(".")[0] in above] == []


def scripts(folder: Path) -> dict[str, set[str]]:
    """What each script imports, wherever it lies: its file's name -> the first names of its imports."""
    return {path.stem: {name.split(".")[0] for name in imported(path, {})} for path in folder.rglob("*.py")}


def test_no_script_imports_another() -> None:
    found = {**scripts(ROOT / "experiments"), **scripts(ROOT / "analysis")}
    callable_ = {path.stem for name in ("experiments", "analysis") for path in (ROOT / name).glob("*.py")}
    callable_ |= {path.stem for path in (ROOT / "experiments" / "studies").glob("*.py")}
    assert [f"{name} -> {other}" for name, others in found.items() for other in others & callable_] == []


def test_scripts_are_thin() -> None:
    others = {"benchmark.py", "pretrain.py"}  # the work of these is still in them
    paths = [path for path in (ROOT / "experiments").glob("*.py") if path.name not in others]
    assert len(paths) >= 11
    assert {path.name: n for path in paths if (n := len(path.read_text().splitlines())) > 60} == {}


@pytest.mark.parametrize(
    ("path", "line", "expected"),
    [
        ("backbones/base.py", "from mtdiff.methods.base import Method", "mtdiff.backbones.base -> mtdiff.methods.base"),
        ("files/writing.py", "def f() -> None:\n    import mtdiff.runs", "mtdiff.files.writing -> mtdiff.runs"),
        ("config/schema.py", "from mtdiff import results", "mtdiff.config.schema -> mtdiff.results"),
        ("model/denoiser.py", "from baselines import dtr", "mtdiff.model.denoiser -> baselines"),
        ("model/denoiser.py", "from ..runs import load", "mtdiff.model.denoiser -> mtdiff.runs"),
    ],
)
def test_a_forbidden_arrow_is_found(tmp_path: Path, path: str, line: str, expected: str) -> None:
    """On a copy of two rooms, one of which imports what it may not."""
    house = tmp_path / "mtdiff"
    for name in ("__init__.py", path, "methods/__init__.py", "runs/__init__.py", "results/__init__.py"):
        (house / name).parent.mkdir(parents=True, exist_ok=True)
        (house / name).write_text(line if name == path else "")
    assert forbidden(graph(house)) == [expected]


def test_a_circle_is_found() -> None:
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
