"""Merged against joint against single-task models at equal examples: the runs of suite=merging, then their mergers.

    python experiments/studies/merging.py training.steps=480 [evaluation.per_task=64 ...]
    python experiments/table.py results='runs/*/result.json' out=table

Options are those of run.py, for all runs. Every method's runs of one task and of one seed are merged by each rule, the
scale chosen on validation, into runs/merged-<method>-<rule>-seed<seed>. What is complete is not done again.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

from mtdiff.commands.command import run_command
from mtdiff.commands.suites import plan_suite, run_suite
from mtdiff.methods.merging import Name
from mtdiff.results.record import Result

EXPERIMENTS = Path(__file__).parents[1]
SUITE = "merging"
JUDGED = ("data", "evaluation", "trainer", "progress", "report")
"""Options of the runs that a merger takes too, by the first part of their names."""


def group_parts(folders: Sequence[Path]) -> dict[tuple[str, int], list[Path]]:
    """Complete runs of one task by method and seed."""
    found: dict[tuple[str, int], list[Path]] = {}
    for folder in folders:
        result = Result.load(folder / "result.json")
        if len(result.tasks) == 1:
            found.setdefault((result.method, result.seed), []).append(folder)
    return found


def plan_mergers(folders: Sequence[Path], overrides: Sequence[str]) -> Iterator[list[str]]:
    """Arguments of merge.py for every merger that is not there yet."""
    own = [o for o in overrides if o.partition("=")[0].partition(".")[0] in JUDGED]
    for (method, seed), parts in group_parts(folders).items():
        for rule in get_args(Name):
            out = parts[0].parent / f"merged-{method}-{rule}-seed{seed}"
            if not (out / "result.json").exists():
                runs = ",".join(map(str, parts))
                yield [f"runs=[{runs}]", f"rule={rule}", "scale=validation", f"out={out}", f"seed={seed}", *own]


def main(arguments: list[str]) -> int:
    planned = plan_suite(SUITE, arguments)
    code = run_suite([f"suite={SUITE}", *arguments], [sys.executable, str(EXPERIMENTS / "run.py")])
    if code:
        return code
    for call in plan_mergers([run.folder for run in planned], arguments):
        print(" ".join(["merge.py", *call]), flush=True)
        code = code or subprocess.run([sys.executable, str(EXPERIMENTS / "merge.py"), *call], check=False).returncode
    return code


if __name__ == "__main__":
    run_command(main, __doc__)
