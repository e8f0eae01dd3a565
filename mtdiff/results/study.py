"""Many results -> the study that they form: which runs may be compared, and what the figures show. No torch here.

Runs belong to one study if base, data and training are the same, but for the learning rate, which each method has of
its own, and each model sees as many examples of a task. What is left out is said in `notes`.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mtdiff.results.find import Found, find
from mtdiff.results.grouping import is_volatile
from mtdiff.results.protocol import describe_protocol_gap, every_option, find_commonest, protocol
from mtdiff.results.record import Result, Row
from mtdiff.results.samples import find_grid
from mtdiff.results.schema import is_number
from mtdiff.results.table import Column

RATE = "training.lr"
EXAMPLES = "examples of a task"
OWN = ("training.steps", "training.cache", RATE)
"""Settings of training that runs of one study may have of their own; examples are counted instead of steps."""


@dataclass(frozen=True)
class Run:
    path: Path
    result: Result

    @property
    def label(self) -> str:
        r = self.result
        return f"{r.method} ({' + '.join(r.tasks)}, seed {r.seed})"

    def picture(self, task: str) -> Path | None:
        """Where the grid of the first test examples lies; ValueError where it leads elsewhere."""
        return find_grid(self.path, task)


@dataclass(frozen=True)
class Study:
    """runs: complete ones and those that broke, of one budget, each once. notes: what is missing, one sentence each.

    budgets: the same comparison at every number of examples of a task that there is, its own among them, rising.
    every: all runs that were read, of any base, tasks and budget, for questions that need others.
    """

    runs: Sequence[Run]
    notes: Sequence[str] = ()
    budgets: Mapping[int, "Study"] = field(default_factory=dict, repr=False)
    every: Sequence[Run] = field(default=(), repr=False)

    @property
    def results(self) -> list[Result]:
        return [run.result for run in self.runs]

    @property
    def complete(self) -> list[Run]:
        return [run for run in self.runs if run.result.status == "complete"]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(task for run in self.runs for task in run.result.tasks))

    @property
    def columns(self) -> list[Column]:
        rows = (row for run in self.runs for row in run.result.rows)
        found = list(dict.fromkeys(Column(row.task, row.metric, row.direction) for row in rows))
        return sorted(found, key=lambda column: self.tasks.index(column.task))

    @property
    def headlines(self) -> list[Column]:
        """The first metric of every task."""
        return list({column.task: column for column in reversed(self.columns)}.values())[::-1]

    def select(self, runs: Iterable[Run]) -> "Study":
        """A part of the study."""
        return replace(self, runs=list(runs))


def list_runs(found: Sequence[Found]) -> tuple[list[Run], list[str]]:
    """Every run once among the files that were found, and why others cannot be read."""
    notes = [f"Left blank: {name_file(one)}: {one.reason}." for one in found if one.result is None]
    every = [Run(one.path, one.result) for one in found if one.result is not None]
    return list({identity(run.result): run for run in every}.values()), notes


def read_studies(found: Sequence[Found]) -> tuple[list[Study], list[str]]:
    """All studies among the files that were found, the largest first; and why files cannot be read."""
    others, notes = list_runs(found)
    studies = []
    while others:
        runs, others = split_by_setup(others)
        studies.append(Study(blank_odd_rows(runs), name_broken(runs)))
    return studies, notes


def name_broken(runs: Sequence[Run]) -> list[str]:
    return [f"Not complete: {run.label} {run.result.status}." for run in runs if run.result.status != "complete"]


def read(patterns: str) -> Study:
    """The largest study among the files that glob patterns find."""
    found = find(patterns)
    return choose_study(found) if found else Study([], [f"No result fits {patterns}."])


def choose_study(found: Sequence[Found]) -> Study:
    """The largest study among files that were found."""
    every, notes = list_runs(found)
    runs, others = split_by_setup(every)
    if others:
        names = "; ".join(f"{run.label}: {describe_difference(run.result, runs[0].result)}" for run in others[:4])
        notes.append(f"Left out, since of another base, data or budget: {names}{count_further(others)}.")
    runs, strangers = split_by_tasks(runs)
    if strangers:
        names = "; ".join(run.label for run in strangers[:4])
        notes.append(f"Left out, since of other tasks: {names}{count_further(strangers)}.")
    return Study(blank_odd_rows(runs), [*notes, *name_broken(runs)], collect_budgets(runs, others), every)


def count_further(runs: Sequence[Run], named: int = 4) -> str:
    return f"; and {len(runs) - named} more" if len(runs) > named else ""


def split_by_tasks(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of no other tasks than those that most methods learn together, and the others.

    Where as many learn several sets of tasks, that of most complete runs counts, then the largest. All runs, where none
    learns several tasks.
    """
    found: dict[frozenset[str], list[str]] = defaultdict(list)  # the method of each run
    for result in (run.result for run in runs):
        if result.status == "complete" and len(result.tasks) > 1:
            found[frozenset(result.tasks)].append(result.method)
    if not found:
        return list(runs), []
    scope = max(found, key=lambda tasks: (len(set(found[tasks])), len(found[tasks]), len(tasks)))
    inside, outside = ([r for r in runs if scope.issuperset(r.result.tasks) is kept] for kept in (True, False))
    return inside, outside


def collect_budgets(runs: Sequence[Run], others: Sequence[Run]) -> dict[int, Study]:
    """Studies of other budgets that share the rest of these runs' setup, and their own, by examples of a task."""
    found: dict[int, list[Run]] = defaultdict(list)
    for run in [*runs, *others]:
        found[setup(run.result)[EXAMPLES]].append(run)
    rest = {k: v for k, v in setup(runs[0].result).items() if k != EXAMPLES} if runs else {}
    kept = {n: [r for r in part if setup(r.result) == {**rest, EXAMPLES: n}] for n, part in sorted(found.items())}
    return {n: Study(blank_odd_rows(part), name_broken(part)) for n, part in kept.items() if part}


def name_file(one: Found) -> str:
    return "/".join(one.path.parts[-2:])


def identity(result: Result) -> str:
    """Equal for two files of the same run."""
    options = {k: v for k, v in every_option(result).items() if not is_volatile(k) or k == "seed"}
    return repr((result.method, result.backbone, result.data, result.tasks, result.seed, sorted(options.items())))


def setup(result: Result) -> dict[str, Any]:
    """What all runs of a study share."""
    training = result.config.get("training") or {}
    plain = {k: v for k, v in every_option(result).items() if k.startswith("training.") and not is_volatile(k)}
    kept = {k: v for k, v in plain.items() if k not in OWN}
    per_step = training.get("batch_size", 0) * training.get("accumulate", 1)
    weights = result.config.get("weights") or {}
    shares = [weights.get(task, 1) for task in result.tasks]
    seen = training.get("steps", 0) * per_step * shares[0] / sum(shares) if shares else 0
    if result.parts:  # a merger was not trained; its parts were
        counts: list[Any] = [part.get("samples_seen") for part in result.parts]
        seen = sum(float(n) for n in counts if is_number(n)) / max(1, len(result.tasks))
    return {"backbone": result.backbone, "data": result.data, **kept, EXAMPLES: round(seen)}


def split_by_setup(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of the setup that most complete runs share, and the others."""
    keys = [repr(sorted(setup(run.result).items())) for run in runs]
    counts = Counter(key for key, run in zip(keys, runs, strict=True) if run.result.status == "complete")
    first = max(keys, key=lambda key: counts[key]) if keys else ""
    parts = [[run for key, run in zip(keys, runs, strict=True) if (key == first) is inside] for inside in (True, False)]
    return parts[0], parts[1]


def describe_difference(found: Result, rule: Result) -> str:
    a, b = setup(found), setup(rule)
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
    return ", ".join(f"{k}={a.get(k)} instead of {b.get(k)}" for k in keys[:3]) + (" ..." if len(keys) > 3 else "")


def blank_odd_rows(runs: Sequence[Run]) -> list[Run]:
    """The same runs; rows that were judged otherwise than most of their task lose their value and say so."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.result.tasks))
    rules = {task: find_commonest([run.result for run in runs], task) for task in tasks}

    def blank_if_odd(result: Result, row: Row) -> Row:
        found = protocol(result, row.task)
        if row.value is None or found == rules[row.task]:
            return row
        return replace(
            row, value=None, low=None, high=None, values=None, reason=describe_protocol_gap(found, rules[row.task])
        )

    kept = [[blank_if_odd(run.result, row) for row in run.result.rows] for run in runs]
    return [replace(run, result=replace(run.result, rows=rows)) for run, rows in zip(runs, kept, strict=True)]
