"""Runs that were trained apart on one base, added up in one model without training.

The method says whether its trainings add up (`Method.sum_options`), and under which options one model holds all of
them: then that model is an ordinary run, whose adapter has the tensors of all parts under their own names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

from torch import Tensor

from mtdiff.config.defaults import fill_defaults
from mtdiff.config.schema import construct
from mtdiff.errors import shown
from mtdiff.runs.adapter import About

LISTED = ("reference", "hidden")
"""Options of a task that the runs of a sum may have each for itself: names, of which the sum has all."""


def join_runs(parts: Sequence[About], weights: Sequence[float] | None = None) -> About:
    """What the sum of some runs says of itself, as the run that it is. weights: of each, 1 where none are given.

    ValueError in one line where they do not belong together; CannotMerge where their method does not add up.
    """
    if not parts:
        raise ValueError("adapter=[]: expected one run or more")
    factors = check_weights(parts, weights)
    first = parts[0]
    for about in parts:
        check_same(about, first)
    nodes = [about.method for about in parts]
    options = [{k: v for k, v in node.items() if k != "_target_"} for node in nodes]
    summed = construct(nodes[0]).sum_options(options, factors)
    method = {"_target_": nodes[0]["_target_"], **summed}
    tasks = {name: join_task(name, parts) for name in first.tasks}
    content = {**first.content, "method": method, "task": {**first.content["task"], **tasks}}
    return replace(first, content=content, encoder=None)


def check_weights(parts: Sequence[About], weights: Sequence[float] | None) -> list[float]:
    if weights is None:
        return [1.0] * len(parts)
    if len(weights) != len(parts) or not all(isfinite(w) for w in weights):
        raise ValueError(f"weights={shown(list(weights))}: expected {len(parts)} finite numbers, one for each run")
    return [float(w) for w in weights]


def check_same(about: About, first: About) -> None:
    """Refuse a run of another method, base or tasks than the first."""
    for key in ("backbone", "tasks"):
        if fill_defaults({key: about.content[key]}) != fill_defaults({key: first.content[key]}):
            raise ValueError(f"{about.path}: has another `{key}` than {first.path}; expected the same in all runs")
    if about.content.get("base") != first.content.get("base"):
        raise ValueError(f"{about.path}: was trained on other weights of the base than {first.path}")
    own, other = (fill_defaults({"method": dict(x.method)})["method"] for x in (about, first))
    for key in ("_target_", *sorted(own.keys() | other.keys())):
        if key not in ("references", "weights") and own.get(key) != other.get(key):
            raise ValueError(
                f"{about.path}: method.{key}={shown(own.get(key))}: {first.path} has {shown(other.get(key))}; "
                "expected the same in all runs"
            )


def join_task(name: str, parts: Sequence[About]) -> dict[str, Any]:
    """The task of the sum: that of its parts, which may differ in lists of names alone; it has the names of all."""
    nodes = [dict(fill_defaults({"task": {name: about.content["task"][name]}})["task"][name]) for about in parts]
    joined = dict(nodes[0])
    for about, node in zip(parts, nodes, strict=True):
        for key, value in node.items():
            if key in LISTED and isinstance(value, list | tuple) and isinstance(joined.get(key), list | tuple):
                joined[key] = list(dict.fromkeys([*joined[key], *value]))
            elif joined.get(key) != value:
                said = f"task.{name}.{key}={shown(value)}: the first run has {shown(joined.get(key))}"
                raise ValueError(f"{about.path}: {said}; expected the same in all runs")
    return joined


def join_tensors(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all parts. ValueError where two have one of the same name."""
    joined: dict[str, Tensor] = {}
    for tensors in parts:
        if both := sorted(joined.keys() & tensors.keys()):
            raise ValueError(f"adapter: {len(both)} tensors are in two of the runs, first {both[0]!r}")
        joined |= tensors
    return joined
