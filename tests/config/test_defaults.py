"""A default lives in a constructor's signature; where YAML shows it, the two are equal."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdiff.config.schema import SECTIONS
from mtdiff.config.signatures import signature

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs"
CHOSEN = {  # for the shipped base, whose runs take minutes: no default of a class
    *("training.steps", "training.batch_size", "training.lr"),
}


def literal(node: ast.expr) -> tuple[bool, Any]:
    """Whether a default is a plain value, and which."""
    try:
        return True, ast.literal_eval(node)
    except ValueError:
        return False, None


def differences(given: Mapping[str, Any], dotted: str) -> Iterator[str]:
    """Options that YAML gives another value than the signature's."""
    for argument in signature(dotted):
        if argument.name in given and argument.default is not None:
            plain, value = literal(argument.default)
            own = given[argument.name]
            if plain and value != own and not (isinstance(value, tuple) and list(value) == own):
                yield f"{argument.name}: {own} in YAML, {value} in {dotted}"


def targets(node: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield node
        for child in node.values():
            yield from targets(child)


@pytest.mark.parametrize("section", SECTIONS)
def test_sections_show_the_defaults_of_their_classes(section: str) -> None:
    content = yaml.safe_load((CONFIGS / "config.yaml").read_text())
    assert [d for d in differences(content.get(section, {}), SECTIONS[section]) if f"{section}.{d}" not in CHOSEN] == []


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("method/*.yaml")), ids=lambda path: path.stem)
def test_methods_show_the_defaults_of_their_classes(path: Path) -> None:
    (node,) = targets(yaml.safe_load(path.read_text()))
    assert list(differences(node, node["_target_"])) == []
