"""A table of results: its columns, lines and cells. No torch here.

A line is a method under one configuration; a column holds what was judged in the same way only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from mtdiff.results.intervals import Interval
from mtdiff.results.paired import Scores
from mtdiff.results.record import Direction, Result


@dataclass(frozen=True)
class Column:
    task: str
    metric: str
    direction: Direction


@dataclass(frozen=True)
class Cell:
    """interval: over seeds (Student's t) from two runs on, else over the one run's n examples.

    best, tied: best of its column; not significantly worse than the best. detectable: beside a tie, the smallest
    difference from the best that four of five such studies would find. reason: why there is no interval.
    note: what is missing beside a value. values: by seed. scores: of each example, by seed, where the results carry
    them.
    """

    interval: Interval | None
    seeds: int = 0
    n: int = 0
    best: bool = False
    tied: bool = False
    detectable: float | None = None
    reason: str | None = None
    note: str | None = None
    scores: Scores = field(default_factory=dict, repr=False)
    values: Mapping[int, float] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Cost:
    """Parameters: trained in a run, used by a call, needed for all tasks. Of one call: flops, median latency in ms,
    peak memory in MB. examples: of each task, seen in training."""

    trainable: float | None = None
    total: float | None = None
    total_for_all_tasks: float | None = None
    flops: float | None = None
    latency_ms: float | None = None
    memory_mb: float | None = None
    examples: float | None = None


@dataclass(frozen=True)
class Line:
    """runs: the results that stand behind it."""

    label: str
    cells: list[Cell]
    cost: Cost
    reference: bool = False
    runs: Sequence[Result] = field(default=(), repr=False)


@dataclass(frozen=True)
class Table:
    """notes: what makes lines incomparable, one sentence each."""

    columns: list[Column]
    lines: list[Line]
    notes: list[str]


def find_power(table: Table, column: Column) -> float | None:
    """The smallest difference from a column's best that four of five such studies would find for every line that ties
    with it; None where none does.
    """
    i = table.columns.index(column)
    found = (line.cells[i].detectable for line in table.lines)
    return max((size for size in found if size is not None), default=None)


def keep_columns(table: Table, columns: Sequence[Column]) -> Table:
    """The table with some of its columns, in that order."""
    places = [table.columns.index(column) for column in columns]
    lines = [replace(line, cells=[line.cells[k] for k in places]) for line in table.lines]
    return replace(table, columns=list(columns), lines=lines)
