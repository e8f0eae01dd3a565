"""What training on several tasks together changes, against models of one task alone. No torch here."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mtdiff.results.intervals import Interval, seed_interval
from mtdiff.results.paired import compare_paired
from mtdiff.results.record import RUN, Direction, Row
from mtdiff.results.study import Run, Study
from mtdiff.results.table import Column
from mtdiff.results.variants import select_central


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


def rows_by_seed(runs: Iterable[Run], column: Column) -> dict[int, Row]:
    """Rows with a value, of the runs themselves."""
    rows = ((run.result.seed, row) for run in runs for row in run.result.rows if row.model == RUN)
    return {s: r for s, r in rows if (r.task, r.metric) == (column.task, column.metric) and r.value is not None}


def difference(a: Mapping[int, Row], b: Mapping[int, Row], direction: Direction) -> Interval | None:
    """a - b over the seeds that both have, turned so that positive is better: by the paired test where every
    example has a score, else by the differences of the seeds."""
    seeds = [seed for seed in a if seed in b]
    sign = 1.0 if direction == "higher" else -1.0
    if not seeds:
        return None
    scores = [{s: rows[s].values for s in seeds} for rows in (a, b)]
    if all(values is not None for part in scores for values in part.values()):
        found = compare_paired(*scores)  # type: ignore[arg-type]
        if found is not None:
            return orient(found, sign)
    plain = [(a[s].value or 0.0) - (b[s].value or 0.0) for s in seeds]
    return orient(seed_interval(plain), sign)


def orient(interval: Interval, sign: float) -> Interval:
    ends = [None if x is None else sign * x for x in (interval.low, interval.high)]
    low, high = ends if sign > 0 else reversed(ends)
    return Interval(sign * interval.value, low, high)


def select_single(study: Study, method: str) -> list[Run]:
    return [
        r
        for r in select_central(study.select(study.complete))
        if r.result.method == method and len(r.result.tasks) == 1
    ]


def find_yardstick(study: Study) -> str | None:
    """The method of the single-task models that all others are held against: the one that trains most."""
    alone = [run for run in study.complete if len(run.result.tasks) == 1]
    return max(alone, key=lambda run: run.result.params["trainable"] or 0).result.method if alone else None


def list_changes(study: Study, method: str, against: str) -> list[Change]:
    """For every set of tasks that a method was trained on together, and every task of it."""
    ours = [r for r in select_central(study.select(study.complete)) if r.result.method == method]
    theirs, found = select_single(study, against), []
    for tasks in dict.fromkeys(tuple(run.result.tasks) for run in ours if len(run.result.tasks) > 1):
        together = [run for run in ours if tuple(run.result.tasks) == tasks]
        for column in (c for c in study.headlines if c.task in tasks):
            a, b = rows_by_seed(together, column), rows_by_seed(theirs, column)
            interval, pairs = difference(a, b, column.direction), len(a.keys() & b.keys())
            reason = None if interval else f"no seed of {against} trained on {column.task} alone to compare with"
            found.append(Change(method, against, tasks, column.task, column, interval, pairs, reason))
    return found
