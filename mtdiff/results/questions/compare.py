"""Two variants of a study beside each other: which runs they are, by how much one is ahead, and what that decides.

Positive differences are in favour of the variant that a claim calls better.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mtdiff.results.changes import difference, rows_by_seed
from mtdiff.results.intervals import POWER, Interval
from mtdiff.results.study import Run, Study
from mtdiff.results.table import Column
from mtdiff.results.variants import central_options, list_differences, options

Verdict = Literal["holds", "does not hold", "undecided at this size", "not run"]


@dataclass(frozen=True)
class Side:
    """One of the two that a claim compares. tasks: learnt together; null: all of the study; empty: each task alone.

    options: that differ from the method's central variant, by dotted names. suite: which runs it.
    """

    method: str
    suite: str
    tasks: Sequence[str] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def select(self, study: Study) -> list[Run]:
        """Complete runs of this side, of any task where it learns each alone."""
        runs = [run for run in study.complete if run.result.method == self.method]
        wanted = {**central_options(runs), **self.options}
        kept = [run for run in runs if not list_differences(options(run.result), wanted)]
        if self.tasks is not None and not self.tasks:
            return [run for run in kept if len(run.result.tasks) == 1]
        tasks = set(study.tasks if self.tasks is None else self.tasks)
        return [run for run in kept if set(run.result.tasks) == tasks and len(tasks) > 1]


@dataclass(frozen=True)
class Comparison:
    """By how much the better side is ahead in a column, in the metric's own unit. seeds: pairs of runs."""

    column: Column
    interval: Interval
    seeds: int

    @property
    def detectable(self) -> float | None:
        """The smallest true difference that four of five such studies would find."""
        i = self.interval
        return None if i.low is None or i.high is None else POWER * (i.high - i.low) / 2

    @property
    def verdict(self) -> Verdict:
        return judge_interval(self.interval)


@dataclass(frozen=True)
class Finding:
    """What the results say of a claim. missing: suites whose runs it lacks. aside: a figure that belongs to it."""

    verdict: Verdict
    parts: Sequence[Comparison] = ()
    missing: Sequence[str] = ()
    aside: str = ""


def judge_interval(interval: Interval) -> Verdict:
    """Of a difference that a claim says is positive. Without bounds nothing is decided."""
    if interval.low is not None and interval.low > 0:
        return "holds"
    if interval.high is not None and interval.high < 0:
        return "does not hold"
    return "undecided at this size"


def join_verdicts(verdicts: Iterable[Verdict]) -> Verdict:
    """Of a claim about several columns: it holds in all of them, or fails in one."""
    found = set(verdicts)
    if "does not hold" in found:
        return "does not hold"
    return "holds" if found == {"holds"} else "undecided at this size"


def compare_sides(study: Study, better: Side, than: Side, tasks: Sequence[str] | None = None) -> Finding:
    """The first metric of every task (or of some) under both sides, paired by seed and test example."""
    sides = [(side, side.select(study)) for side in (better, than)]
    missing = list(dict.fromkeys(side.suite for side, runs in sides if not runs))
    columns = [column for column in study.headlines if tasks is None or column.task in tasks]
    if missing or not columns:
        return Finding("not run", missing=missing or [better.suite])
    parts = [compare_column(column, sides[0][1], sides[1][1]) for column in columns]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return Finding("not run", known, missing=list(dict.fromkeys(side.suite for side, _ in sides)))
    return Finding(join_verdicts(part.verdict for part in known), known)


def compare_column(column: Column, better: Sequence[Run], than: Sequence[Run]) -> Comparison | None:
    """None where no seed has a value of both."""
    a, b = rows_by_seed(better, column), rows_by_seed(than, column)
    interval = difference(a, b, column.direction)
    return None if interval is None else Comparison(column, interval, len(a.keys() & b.keys()))
