"""Suites: one YAML file lists the runs of a study; all are checked, then run one after another, each exactly once.

    common: seed=0,1,2                      # overrides of every run; a list with commas is a product, as with -m
    equal_budget: true                      # see `budget_steps`
    runs:                                   # one line, one product of overrides; its own values win over `common`
      - method=mtu,ia3
      - method=finetune tasks=[edit],[inpaint]

What is given on the command line wins over both, but for what the runs compare. A run is a process of its own, so that
one that breaks takes nothing with it; whoever works on a run holds a lock on its folder, which the system drops when
that process dies.
"""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mtdiff.config.schema import refuse
from mtdiff.errors import IN_USE, ConfigError
from mtdiff.runs.lock import wait_for


@dataclass(frozen=True)
class Suite:
    """lines: overrides of each product of runs. equal_budget: see `budget_steps`. compared: keys that its runs set."""

    name: str
    lines: list[list[str]]
    equal_budget: bool
    compared: frozenset[str]

    def given(self, overrides: Sequence[str]) -> list[list[str]]:
        """The lines under further overrides, which win over the suite's own."""
        for override in overrides:
            if key(override) in ("name", "run_dir"):
                raise ConfigError(f"{override}: every run of suite {self.name} has a folder of its own")
            if key(override) in self.compared:
                raise ConfigError(f"{override}: suite {self.name} compares values of `{key(override)}`; write your own")
        return [[*drop_replaced(line, overrides), *overrides] for line in self.lines]


@dataclass(frozen=True)
class Planned:
    """One run: overrides that `run.py` takes, and the folder they lead to. report: whether it is to be in a page."""

    overrides: list[str]
    folder: Path
    report: bool = True


# Reading


def load(name: str, folder: Path) -> Suite:
    """A suite by name, from `folder`, or by the path of a YAML file."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.exists():
        raise refuse("suite", name, sorted(p.stem for p in folder.glob("*.yaml")))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"suite={path}: not YAML: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"suite={path}: expected the keys common, equal_budget, runs")
    for found in content:
        if found not in ("common", "equal_budget", "runs"):
            raise refuse(f"suite {path.stem}", found, ("common", "equal_budget", "runs"))
    lines, equal = content.get("runs"), content.get("equal_budget", True)
    common = words(f"suite {path.stem}, common", content.get("common") or "")
    if not isinstance(lines, list) or not lines:
        raise ConfigError(f"suite {path.stem}, runs={lines}: expected a list of overrides")
    if not isinstance(equal, bool):
        raise ConfigError(f"suite {path.stem}, equal_budget={equal}: expected true or false")
    own = [words(f"suite {path.stem}, runs[{i}]", line) for i, line in enumerate(lines)]
    keys = {key(override) for line in own for override in line}
    free = ("evaluation.", "seed")  # how runs are judged, and which of their seeds are run
    compared = frozenset(name for name in keys if not name.startswith(free))
    return Suite(path.stem, [[*drop_replaced(common, line), *line] for line in own], equal, compared)


def words(where: str, line: object) -> list[str]:
    if not isinstance(line, str):
        raise ConfigError(f"{where}={line}: expected overrides as one text, such as `method=mtu seed=0,1`")
    return shlex.split(line)


def key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def drop_replaced(line: Sequence[str], replaced: Sequence[str]) -> list[str]:
    """The overrides whose keys are not among those of `replaced`."""
    keys = {key(override) for override in replaced}
    return [override for override in line if key(override) not in keys]


def budget_steps(suite: Suite, plain: Mapping[str, Any]) -> int:
    """Steps of a run under the suite's equal budget.

    `training.steps` is meant for the tasks that have shares (`weights`); a run of some of them takes its tasks' share
    of it, one of further tasks as much more, so that every model sees the same examples of each task that it learns.
    """
    steps: int = plain["training"]["steps"]
    if not suite.equal_budget:
        return steps
    weights = plain["weights"]
    share = sum(weights.get(task, 1) for task in plain["tasks"]) / sum(weights.values())
    wanted = steps * share
    if abs(wanted - round(wanted)) > 1e-6 or round(wanted) < 1:
        raise ConfigError(
            f"training.steps={steps}: suite {suite.name} gives {'+'.join(plain['tasks'])} a share of {share:g}, "
            "expected a number of steps that it divides"
        )
    return round(wanted)


def refuse_equal(suite: Suite, planned: Sequence[Planned]) -> list[Planned]:
    """The runs themselves, or a ConfigError where two of them are the same."""
    seen: dict[Path, Planned] = {}
    for run in planned:
        if run.folder in seen:
            first, second = (" ".join(r.overrides) for r in (seen[run.folder], run))
            raise ConfigError(f"suite {suite.name}: two of its runs are the same: `{first}` and `{second}`")
        seen[run.folder] = run
    return list(planned)


# Running


def complete(folder: Path) -> bool:
    try:
        content = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("status") == "complete"


def run_all(planned: Sequence[Planned], command: Callable[[Planned], list[str]]) -> int:
    """Run what is not complete; go on after a failure. Returns the exit code: 1 if a run failed, else 0.

    Runs that other processes work on are left to them, waited for at the end, and taken over if they did not finish.
    """
    signal.signal(signal.SIGTERM, _stop)
    failed, elsewhere = [], []
    for i, run in enumerate(planned, 1):
        say(f"[{i}/{len(planned)}] {' '.join(run.overrides)} -> {run.folder}")
        code = attempt(run, command)
        if code == IN_USE:
            elsewhere.append(run)
        elif code != 0:
            failed.append((run, code))
    for run in elsewhere:
        code = IN_USE
        while code == IN_USE:
            say(f"waiting for {run.folder}, on which another process works")
            wait_for(run.folder)
            code = attempt(run, command)
        if code != 0:
            failed.append((run, code))
    for run, code in failed:
        say(f"failed with exit code {code}: {' '.join(run.overrides)} -> {run.folder}")
    say(f"{len(planned) - len(failed)} of {len(planned)} runs are complete")
    return 1 if failed else 0


def attempt(run: Planned, command: Callable[[Planned], list[str]]) -> int:
    """Exit code of one run; 0 at once where it is complete."""
    if complete(run.folder):
        say("complete already")
        return 0
    child = subprocess.Popen(command(run))
    try:
        return child.wait()
    except BaseException:  # the suite is stopped: so is its run, which goes on from its checkpoint next time
        child.terminate()
        child.wait()
        raise


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
