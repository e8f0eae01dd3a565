"""Which runs form one line of a table, and what its label says.

The runs of a line differ in the seed alone. Single-task models form one line together, and differ in the task too.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mtdiff.results.protocol import every_option
from mtdiff.results.record import Result

VOLATILE = (
    "seed",
    "name",
    "run_dir",
    "packages",
    "logger",
    "progress",
    "report",
    "training.workers",
    "training.sample_every",
    "training.validate_every",
    "training.save_every",
    "trainer.accelerator",
    "evaluation.baselines",
    "evaluation.batch_size",
    "evaluation.validation_per_task",
)
"""Configuration keys (with all below them) that do not make another experiment."""
Key = tuple[Any, ...]


def is_volatile(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in VOLATILE)


def distinguishing_options(result: Result) -> dict[str, Any]:
    """What makes this run's configuration another one, except the task of a single-task model."""
    single = len(result.tasks) == 1
    kept = {k: v for k, v in every_option(result).items() if not is_volatile(k)}
    return {k: v for k, v in kept.items() if not (single and k.split(".")[0] == "tasks")}


def kin(result: Result) -> Key:
    """Runs that only options can tell apart."""
    scope = ("single task",) if len(result.tasks) == 1 else tuple(result.tasks)
    return result.method, result.backbone, result.data, scope


def group_results(results: Sequence[Result]) -> dict[Key, list[Result]]:
    groups: dict[Key, list[Result]] = defaultdict(list)
    for result in results:
        settings = tuple(sorted((k, repr(v)) for k, v in distinguishing_options(result).items()))
        groups[*kin(result), settings].append(result)
    return dict(groups)


def usual_values(kin: Sequence[Mapping[str, str]]) -> dict[str, str | None]:
    """Settings that are not the same in all lines -> the value that most lines have (None: they lack it)."""
    names = dict.fromkeys(name for settings in kin for name in settings)
    found = {name: Counter(settings.get(name) for settings in kin) for name in names}
    return {name: counts.most_common(1)[0][0] for name, counts in found.items() if len(counts) > 1}


def describe_option(name: str, value: str | None) -> str:
    """`method.experts=4`; of a dotted class the last part alone."""
    if value is None:
        return f"no {name}"
    if name.endswith("._target_"):
        name, value = name.removesuffix("._target_"), value.strip("'").rpartition(".")[-1]
    return f"{name}={value}"


def label_lines(groups: Mapping[Key, list[Result]]) -> tuple[dict[Key, str], list[str]]:
    """The method, and whatever else tells a line from the others; notes that complete it.

    Where lines differ in more than one setting, each names those in which it differs from most of them.
    """
    every = list(dict.fromkeys(task for runs in groups.values() for run in runs for task in run.tasks))
    backbones, data = ({key[i] for key in groups} for i in (1, 2))
    labels: dict[Key, str] = {}
    notes: dict[Key, str] = {}
    for key in groups:
        method, backbone, source, scope, settings = key
        marks = [backbone] * (len(backbones) > 1) + [source] * (len(data) > 1)
        marks += [] if set(scope) == set(every) or len(every) == 1 else [" + ".join(scope)]
        own, usual = dict(settings), usual_values([dict(k[-1]) for k in groups if k[:-1] == key[:-1]])
        told = [name for name in usual if len(usual) == 1 or own.get(name) != usual[name]]
        if len(usual) > 1:
            rest = ", ".join(describe_option(name, value) for name, value in usual.items() if value is not None)
            name = method + (f" ({', '.join(marks)})" if marks else "")
            notes[key[:-1]] = f"{name}, where a line says nothing else: {rest}."
        marks += [describe_option(name, own.get(name)) for name in told]
        labels[key] = method + (f" ({', '.join(marks)})" if marks else "")
    return labels, list(notes.values())
