"""Variants of a method in a study: which options tell them apart, and which one is central. No torch here."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtdiff.results.protocol import every_option
from mtdiff.results.record import Result
from mtdiff.results.study import RATE, Run, Study

Options = Mapping[str, Any]


def options(result: Result) -> dict[str, Any]:
    """What a method and its balancing can be told, and its learning rate."""
    return {k: v for k, v in every_option(result).items() if k.split(".")[0] in ("method", "balancing") or k == RATE}


def central_options(runs: Sequence[Run]) -> Options:
    """Of a method's variants the one that the others vary: the fewest options away from all runs together."""
    variants = list({repr(sorted(options(r.result).items())): options(r.result) for r in runs}.values())
    return min(variants, key=lambda v: sum(len(list_differences(options(run.result), v)) for run in runs), default={})


def list_differences(a: Options, b: Options) -> list[str]:
    return [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]


def methods(study: Study) -> list[str]:
    return list(dict.fromkeys(run.result.method for run in study.runs))


def select_central(study: Study, but: str = "") -> list[Run]:
    """Runs of every method's central variant; options whose name starts with `but` are free."""
    centres = {m: central_options([run for run in study.runs if run.result.method == m]) for m in methods(study)}

    def fits(run: Run) -> bool:
        odd = list_differences(options(run.result), centres[run.result.method])
        return all(but and name.startswith(but) for name in odd)

    return [run for run in study.runs if fits(run)]


def select_main(study: Study) -> Study:
    """Every method's central variant on all tasks together, and on single ones."""
    return study.select(run for run in select_central(study) if len(run.result.tasks) in (1, len(study.tasks)))


def select_ablation(study: Study, method: str, but: str) -> Study:
    """Runs of a method on all tasks that may differ in the options whose names start with `but`."""
    every = select_central(study, but)
    return study.select(r for r in every if r.result.method == method and len(r.result.tasks) == len(study.tasks))
