"""What the studies over trained runs share: which runs, trained first where asked for, and the examples to judge on."""

import sys
from collections.abc import Mapping, Sequence
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.commands.compose import CONFIGS
from mtdiff.config.schema import construct
from mtdiff.errors import RunError

if TYPE_CHECKING:
    from mtdiff.runs.ways import Examples

RUN = CONFIGS.parent / "run.py"


def list_folders(given: Mapping[str, str], key: str) -> list[Path]:
    """Folders of `key=a,b`, where each may be a pattern. ValueError where a pattern fits none."""
    found: list[Path] = []
    for text in filter(None, given.get(key, "").split(",")):
        folders = sorted(glob(text)) if any(letter in text for letter in "*?[") else [text]
        if not folders:
            raise ValueError(f"{key}={text}: fits no folder")
        found += map(Path, folders)
    return found


def run_suites(names: str, overrides: Sequence[str]) -> list[Path]:
    """Run what of several suites is not complete, one after another; the folders of all their runs.

    RunError where one of them does not come to its end.
    """
    from mtdiff.commands.suites import plan_suite, run_suite

    folders: list[Path] = []
    for name in names.split(","):
        folders += [run.folder for run in plan_suite(name, overrides)]
        if run_suite(name, overrides, [sys.executable, str(RUN)]):
            raise RunError(f"suite={name}: not all of its runs are complete, so there is nothing to compare yet")
    return folders


def find_runs(given: Mapping[str, str], overrides: Sequence[str]) -> list[Path]:
    """The folders of `run=`, or of the runs of `suite=`. ValueError where not exactly one of them is given."""
    if bool(given.get("suite")) == bool(given.get("run")):
        raise ValueError("run: has to be given, as run=..., or suite=... in its place")
    return run_suites(given["suite"], overrides) if given.get("suite") else list_folders(given, "run")


def build_examples(plain: Mapping[str, Any], run: Path, per_task: int, size: int) -> "Examples":
    """The examples that the ways of a run's tasks are judged on, in batches of a size."""
    from mtdiff.commands.build import build_judge
    from mtdiff.runs.adapter import read_about
    from mtdiff.runs.load import build_tasks
    from mtdiff.runs.ways import read_examples

    source, evaluation = construct(plain["data"]), plain["evaluation"]
    judge, tasks = build_judge(plain, source), build_tasks(read_about(run))
    return read_examples(source, tasks, judge, evaluation["split"], per_task, size, evaluation["seed"])
