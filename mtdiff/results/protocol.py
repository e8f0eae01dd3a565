"""How a result was judged: what has to be alike for two numbers to stand in one column."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtdiff.config.defaults import fill_defaults
from mtdiff.results.record import Result

JUDGED_BY = ("data", "metrics", "evaluation.split", "evaluation.per_task", "evaluation.seed")
"""Configuration keys (with all below them) that decide what is drawn and how it is judged, whatever the task."""
SAMPLED_BY = ("sampling.sampler", "sampling.steps", "sampling.inherit", "sampling.switch")
LIBRARIES = ("mtdiff", "lpips")
"""Packages that hold the metrics: another version is another metric until shown otherwise."""

Protocol = Mapping[str, Any]


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists -> {dotted key: leaf}."""
    if isinstance(config, Mapping):
        items: Iterable[tuple[Any, Any]] = config.items()
    elif isinstance(config, list):
        items = enumerate(config)
    else:
        return {prefix: config}
    return {
        k: v for name, inner in items for k, v in flatten(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }


def every_option(result: Result) -> dict[str, Any]:
    """A run's configuration as {dotted key: leaf}; options that are newer than the run have their defaults, and 1.0 is
    the number 1."""
    found = flatten(fill_defaults(result.config))
    return {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in found.items()}


def protocol(result: Result, task: str) -> Protocol:
    """Everything by which this task's rows of a result were made from a trained model."""
    roots = (*JUDGED_BY, *SAMPLED_BY, f"sampling.guidance.{task}", f"task.{task}")
    below = tuple(f"{root}." for root in roots)
    found = {k: v for k, v in every_option(result).items() if k in roots or k.startswith(below)}
    versions = {f"version of {name}": result.versions[name] for name in LIBRARIES if name in result.versions}
    return {"data": result.data, **found, **versions}


def find_commonest(results: Sequence[Result], task: str) -> Protocol:
    """The protocol that most complete results of a task share; the first of equally frequent ones."""
    found = [protocol(r, task) for r in results if r.status == "complete" and any(x.task == task for x in r.rows)]
    counts = Counter(repr(sorted(p.items())) for p in found)
    return next((p for p in found if counts[repr(sorted(p.items()))] == max(counts.values())), {})


def describe_protocol_gap(found: Protocol, rule: Protocol) -> str:
    """Why a number does not belong into the column, in one line."""
    keys = [k for k in dict.fromkeys([*found, *rule]) if found.get(k) != rule.get(k)]
    return "judged otherwise: " + ", ".join(f"{k}={found.get(k)} instead of {rule.get(k)}" for k in keys)
