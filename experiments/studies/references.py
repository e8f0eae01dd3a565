"""Reference pictures: the runs of suite=emma, then sums of those of one reference, which nobody trained.

    python experiments/studies/references.py [training.steps=480 ...]

Options are those of run.py, for all runs. Of every seed the modules of EMMA as published are added up, object with
style and all three, into runs/sum-<names>-seed<seed>. What is complete is not done again.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mtdiff.commands.command import run_command
from mtdiff.commands.merge import keep_settings, run_mergers
from mtdiff.commands.suites import plan_suite, run_suite
from mtdiff.config.defaults import fill_defaults
from mtdiff.results.record import Result
from mtdiff.runs.suite import Planned, drop_replaced

EXPERIMENTS = Path(__file__).parents[1]
SUITE = "emma"
SUMS = (("object", "style"), ("object", "style", "tone"))


def group_modules(runs: Sequence[Planned]) -> dict[int, dict[str, Planned]]:
    """Complete runs of one reference under EMMA as published, by seed and reference."""
    found: dict[int, dict[str, Planned]] = {}
    for run in runs:
        result = Result.load(run.folder / "result.json")
        options = fill_defaults(result.config)["method"]
        names = options.get("references", [])
        if result.method == "emma" and len(names) == 1 and options["gate"] == "token" and options["time"]:
            found.setdefault(result.seed, {})[names[0]] = run
    return found


def plan_sums(runs: Sequence[Planned]) -> Iterator[list[str]]:
    """Arguments of merge.py for every sum that is not there yet. It is judged as its parts were."""
    for seed, modules in group_modules(runs).items():
        for names in SUMS:
            parts = [modules[name] for name in names]
            folder = parts[0].folder.parent / f"sum-{'+'.join(names)}-seed{seed}"
            if not (folder / "result.json").exists():
                named = ",".join(str(part.folder) for part in parts)
                judged = drop_replaced(keep_settings(parts[0].overrides), ["evaluation.baselines"])
                own = [f"seed={seed}", *judged, "evaluation.baselines=false"]
                yield [f"runs=[{named}]", "rule=sum", f"out={folder}", *own]


def main(arguments: list[str]) -> int:
    code = run_suite(SUITE, arguments, [sys.executable, str(EXPERIMENTS / "run.py")])
    return code or run_mergers(plan_sums(plan_suite(SUITE, arguments)), EXPERIMENTS / "merge.py")


if __name__ == "__main__":
    run_command(main, __doc__)
