"""Merged against joint against single-task models at equal examples: the runs of suite=merging, then their mergers.

    python experiments/studies/merging.py [training.steps=480 ...]
    python experiments/table.py results='runs/*/result.json' out=table

Options are those of run.py, for all runs. Every method's runs of one task and of one seed are merged by each rule, the
scale chosen on validation, into runs/merged-<method>-<rule>-seed<seed>. What is complete is not done again.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from mtdiff.commands.command import run_command
from mtdiff.commands.merge import keep_settings, run_mergers
from mtdiff.commands.suites import plan_suite, run_suite
from mtdiff.methods.merging import Name
from mtdiff.results.record import Result
from mtdiff.runs.suite import Planned

EXPERIMENTS = Path(__file__).parents[1]
SUITE = "merging"


def group_parts(runs: Sequence[Planned]) -> dict[tuple[str, int], list[Planned]]:
    """Complete runs of one task by method and seed."""
    found: dict[tuple[str, int], list[Planned]] = {}
    for run in runs:
        result = Result.load(run.folder / "result.json")
        if len(result.tasks) == 1:
            found.setdefault((result.method, result.seed), []).append(run)
    return found


def plan_mergers(runs: Sequence[Planned]) -> Iterator[list[str]]:
    """Arguments of merge.py for every merger that is not there yet. It is judged as its parts were."""
    for (method, seed), parts in group_parts(runs).items():
        for rule in get_args(Name):
            folder = parts[0].folder.parent / f"merged-{method}-{rule}-seed{seed}"
            if not (folder / "result.json").exists():
                named = ",".join(str(part.folder) for part in parts)
                own = [f"seed={seed}", *keep_settings(parts[0].overrides)]
                yield [f"runs=[{named}]", f"rule={rule}", "scale=validation", f"out={folder}", *own]


def main(arguments: list[str]) -> int:
    code = run_suite(SUITE, arguments, [sys.executable, str(EXPERIMENTS / "run.py")])
    return code or run_mergers(plan_mergers(plan_suite(SUITE, arguments)), EXPERIMENTS / "merge.py")


if __name__ == "__main__":
    run_command(main, __doc__)
