"""Many results -> the study that they form: which runs may be compared, and what the figures show. No torch here.

Runs belong to one study if base, data and training are the same, but for the learning rate, which each method has of
its own, and each model sees as many examples of a task. What is left out is said in `notes`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mtdiff.results.intervals import Interval, seed_interval
from mtdiff.results.paired import paired
from mtdiff.results.protocol import commonest, every_option, protocol, unlike
from mtdiff.results.record import RUN, Direction, Found, Result, Row, find
from mtdiff.results.table import VOLATILE, Column

Options = Mapping[str, Any]
RATE = "training.lr"
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
        """Source, answer and truth of the first test examples: in the run's folder, or beside a collected result."""
        places = (self.path.parent / "samples" / f"{task}.png", self.path.with_name(f"{self.path.stem}-{task}.webp"))
        return next((place for place in places if place.exists()), None)


@dataclass(frozen=True)
class Study:
    """runs: complete ones and those that broke, of one budget, each once. notes: what is missing, one sentence each."""

    runs: Sequence[Run]
    notes: Sequence[str] = ()

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

    def where(self, runs: Iterable[Run]) -> "Study":
        """A part of the study."""
        return replace(self, runs=list(runs))


def read(patterns: str) -> Study:
    """The largest study among the files that glob patterns find."""
    found = find(patterns)
    if not found:
        return Study([], [f"No result fits {patterns}."])
    notes = [f"Left blank: {shown(one)}: {one.reason}." for one in found if one.result is None]
    every = [Run(one.path, one.result) for one in found if one.result is not None]
    runs, others = largest(list({identity(run.result): run for run in every}.values()))
    if others:
        names = "; ".join(f"{run.label}: {difference_of(run.result, runs[0].result)}" for run in others[:4])
        more = f"; and {len(others) - 4} more" if len(others) > 4 else ""
        notes.append(f"Left out, since of another base, data or budget: {names}{more}.")
    notes += [f"Not complete: {run.label} {run.result.status}." for run in runs if run.result.status != "complete"]
    return Study(judged_alike(runs), notes)


def shown(one: Found) -> str:
    return "/".join(one.path.parts[-2:])


def identity(result: Result) -> str:
    """Equal for two files of the same run."""
    options = {k: v for k, v in every_option(result).items() if not volatile(k) or k == "seed"}
    return repr((result.method, result.backbone, result.data, result.tasks, result.seed, sorted(options.items())))


def volatile(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in VOLATILE)


def setup(result: Result) -> dict[str, Any]:
    """What all runs of a study share."""
    training = result.config.get("training") or {}
    plain = {k: v for k, v in every_option(result).items() if k.startswith("training.") and not volatile(k)}
    kept = {k: v for k, v in plain.items() if k not in OWN}
    per_step = training.get("batch_size", 0) * training.get("accumulate", 1)
    weights = result.config.get("weights") or {}
    shares = [weights.get(task, 1) for task in result.tasks]
    seen = training.get("steps", 0) * per_step * shares[0] / sum(shares) if shares else 0
    return {"backbone": result.backbone, "data": result.data, **kept, "examples of a task": round(seen)}


def largest(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs of the setup that most complete runs share, and the others."""
    keys = [repr(sorted(setup(run.result).items())) for run in runs]
    counts = Counter(key for key, run in zip(keys, runs, strict=True) if run.result.status == "complete")
    first = max(keys, key=lambda key: counts[key]) if keys else ""
    parts = [[run for key, run in zip(keys, runs, strict=True) if (key == first) is inside] for inside in (True, False)]
    return parts[0], parts[1]


def difference_of(found: Result, rule: Result) -> str:
    a, b = setup(found), setup(rule)
    keys = [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]
    return ", ".join(f"{k}={a.get(k)} instead of {b.get(k)}" for k in keys[:3]) + (" ..." if len(keys) > 3 else "")


def judged_alike(runs: Sequence[Run]) -> list[Run]:
    """The same runs; rows that were judged otherwise than most of their task lose their value and say so."""
    tasks = list(dict.fromkeys(task for run in runs for task in run.result.tasks))
    rules = {task: commonest([run.result for run in runs], task) for task in tasks}

    def checked(result: Result, row: Row) -> Row:
        found = protocol(result, row.task)
        if row.value is None or found == rules[row.task]:
            return row
        return replace(row, value=None, low=None, high=None, values=None, reason=unlike(found, rules[row.task]))

    return [
        replace(run, result=replace(run.result, rows=[checked(run.result, r) for r in run.result.rows])) for run in runs
    ]


# Variants


def options(result: Result) -> dict[str, Any]:
    """What a method and its balancing can be told, and its learning rate."""
    return {k: v for k, v in every_option(result).items() if k.split(".")[0] in ("method", "balancing") or k == RATE}


def central(runs: Sequence[Run]) -> Options:
    """Of a method's variants the one that the others vary: the fewest options away from all runs together."""
    variants = list({repr(sorted(options(r.result).items())): options(r.result) for r in runs}.values())
    return min(variants, key=lambda v: sum(len(differing(options(run.result), v)) for run in runs), default={})


def differing(a: Options, b: Options) -> list[str]:
    return [k for k in dict.fromkeys([*a, *b]) if a.get(k) != b.get(k)]


def methods(study: Study) -> list[str]:
    return list(dict.fromkeys(run.result.method for run in study.runs))


def of_central(study: Study, but: str = "") -> list[Run]:
    """Runs of every method's central variant; options whose name starts with `but` are free."""
    centres = {m: central([run for run in study.runs if run.result.method == m]) for m in methods(study)}

    def fits(run: Run) -> bool:
        odd = differing(options(run.result), centres[run.result.method])
        return all(but and name.startswith(but) for name in odd)

    return [run for run in study.runs if fits(run)]


def main(study: Study) -> Study:
    """Every method's central variant on all tasks together, and on single ones."""
    return study.where(run for run in of_central(study) if len(run.result.tasks) in (1, len(study.tasks)))


def ablation(study: Study, method: str, but: str) -> Study:
    """Runs of a method on all tasks that may differ in the options whose names start with `but`."""
    every = of_central(study, but)
    return study.where(r for r in every if r.result.method == method and len(r.result.tasks) == len(study.tasks))


# Differences


@dataclass(frozen=True)
class Change:
    """What training on `tasks` together changes for `task`, against models of that task alone: positive is better.

    against: the method of those models. interval: of the difference in the metric's own unit; bounds are missing where
    there is one seed and no score per example. seeds: pairs. reason: why there is no interval.
    """

    method: str
    against: str
    tasks: tuple[str, ...]
    task: str
    column: Column
    interval: Interval | None
    seeds: int = 0
    reason: str | None = None


def row_by_seed(runs: Iterable[Run], column: Column) -> dict[int, Row]:
    """Rows with a value, of the runs themselves."""
    rows = ((run.result.seed, row) for run in runs for row in run.result.rows if row.model == RUN)
    return {s: r for s, r in rows if (r.task, r.metric) == (column.task, column.metric) and r.value is not None}


def difference(a: Mapping[int, Row], b: Mapping[int, Row], direction: Direction) -> Interval | None:
    """a - b over the seeds that both have, turned so that positive is better: by `comparison.paired` where every
    example has a score, else by the differences of the seeds."""
    seeds = [seed for seed in a if seed in b]
    sign = 1.0 if direction == "higher" else -1.0
    if not seeds:
        return None
    scores = [{s: rows[s].values for s in seeds} for rows in (a, b)]
    if all(values is not None for part in scores for values in part.values()):
        found = paired(*scores)  # type: ignore[arg-type]
        if found is not None:
            return turned(found, sign)
    plain = [(a[s].value or 0.0) - (b[s].value or 0.0) for s in seeds]
    return turned(seed_interval(plain), sign)


def turned(interval: Interval, sign: float) -> Interval:
    ends = [None if x is None else sign * x for x in (interval.low, interval.high)]
    low, high = ends if sign > 0 else reversed(ends)
    return Interval(sign * interval.value, low, high)


def single(study: Study, method: str) -> list[Run]:
    return [
        r for r in of_central(study.where(study.complete)) if r.result.method == method and len(r.result.tasks) == 1
    ]


def yardstick(study: Study) -> str | None:
    """The method of the single-task models that all others are held against: the one that trains most."""
    alone = [run for run in study.complete if len(run.result.tasks) == 1]
    return max(alone, key=lambda run: run.result.params["trainable"] or 0).result.method if alone else None


def changes(study: Study, method: str, against: str) -> list[Change]:
    """For every set of tasks that a method was trained on together, and every task of it."""
    ours = [r for r in of_central(study.where(study.complete)) if r.result.method == method]
    theirs, found = single(study, against), []
    for tasks in dict.fromkeys(tuple(run.result.tasks) for run in ours if len(run.result.tasks) > 1):
        together = [run for run in ours if tuple(run.result.tasks) == tasks]
        for column in (c for c in study.headlines if c.task in tasks):
            a, b = row_by_seed(together, column), row_by_seed(theirs, column)
            interval, pairs = difference(a, b, column.direction), len(a.keys() & b.keys())
            reason = None if interval else f"no seed of {against} trained on {column.task} alone to compare with"
            found.append(Change(method, against, tasks, column.task, column, interval, pairs, reason))
    return found
