"""The study of ways to draw faster, as experiments/studies/frontier.py writes it, and what it answers. No torch here.

Every way stands beside the whole drawing, and beside fewer steps that take about its time, with paired 95 % intervals.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtdiff.files.reading import read_json
from mtdiff.results.intervals import Interval, paired_difference
from mtdiff.results.paired import compare_paired
from mtdiff.results.record import Row
from mtdiff.results.render import ARROWS, number
from mtdiff.results.table import Column

SCHEMA = 2
WHOLE = "whole"
SAVINGS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
ROOM = 0.1  # below the time that is asked for, of the whole drawing, in which ways compete for an answer
AIM = 1.4  # times faster
MARKS = {1: " ▲", 0: "", -1: " ▼"}
SIGNS = {1: "+", 0: "=", -1: "−"}
LEGEND = (
    "Time: of the whole drawing's, the median of turns and its quartiles. = + −: beside the whole drawing no sure "
    "difference, surely better, surely worse. ▲ ▼: surely better or worse than fewer steps of about the same time. "
    "Sure: the paired 95 % interval over the same examples, noise and seeds leaves out zero; not corrected for the "
    "number of comparisons."
)
Rows = Mapping[int, Sequence[Row]]
"""Rows of one way by seed."""


@dataclass(frozen=True)
class Cell:
    """A metric of a way; its difference to the whole drawing, and to fewer steps of its time, None where unknown."""

    value: float | None
    whole: Interval | None
    fewer: Interval | None


@dataclass(frozen=True)
class Entry:
    """A way. time, low, high: share of the whole drawing's time. fewer: steps that take as long; None: it is those."""

    name: str
    time: float
    low: float
    high: float
    fewer: str | None
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Ways:
    """columns: what the cells of each entry are. about: the rest of the file."""

    columns: Sequence[Column]
    entries: Sequence[Entry]
    about: Mapping[str, Any]

    @property
    def headlines(self) -> list[int]:
        """Of every task the column that tables and figures show."""
        return pick_headlines(self.columns, self.about)

    def compare(self, entry: Entry, place: int, against: str) -> int:
        """1, 0 or -1: surely better, unsure, surely worse in a column. against: whole or fewer."""
        interval: Interval | None = getattr(entry.cells[place], against)
        return judge_interval(interval, self.columns[place].direction)

    def list_tasks(self, entry: Entry, against: str, verdict: int) -> list[str]:
        """Tasks in whose headline an entry compares so."""
        return [self.columns[k].task for k in self.headlines if self.compare(entry, k, against) == verdict]


def pick_headlines(columns: Sequence[Column], about: Mapping[str, Any]) -> list[int]:
    """Of every task the first metric that has a score for each example, else its first.

    A number of a whole set has as many pairs as there are seeds: it would find no difference.
    """
    scored = about.get("by_example", [True] * len(columns))
    found: dict[str, list[int]] = {}
    for k, column in enumerate(columns):
        found.setdefault(column.task, []).append(k)
    return [next((k for k in places if scored[k]), places[0]) for places in found.values()]


def describe_columns(rows: Sequence[Row]) -> dict[str, Any]:
    """What the columns of a study are, for its file: of the rows of any of its ways."""
    columns = [{"task": row.task, "metric": row.metric, "direction": row.direction} for row in rows]
    return {"columns": columns, "by_example": [row.values is not None for row in rows]}


def judge_interval(interval: Interval | None, direction: str) -> int:
    """Whether a difference is surely an improvement (1) or the opposite (-1)."""
    if interval is None or interval.low is None or interval.high is None or interval.low <= 0 <= interval.high:
        return 0
    return 1 if (interval.low > 0) == (direction == "higher") else -1


# Making and reading


def find_rival(ratio: float, steps: int) -> int:
    """How many of the whole drawing's steps take about as long as a share of its time."""
    return min(steps, max(1, round(ratio * steps)))


def name_steps(number: int, steps: int) -> str:
    return WHOLE if number == steps else f"{number} steps"


def compare_rows(rows: Rows, others: Rows) -> list[list[float] | None]:
    """Paired difference of each row to the same row of another way: value, low, high; None where there is none."""
    seeds = [seed for seed in rows if seed in others]
    found = []
    for k in range(len(next(iter(rows.values())))):
        mine, theirs = ({seed: side[seed][k] for seed in seeds} for side in (rows, others))
        found.append(round_interval(compare_row(mine, theirs)))
    return found


def compare_row(mine: Mapping[int, Row], theirs: Mapping[int, Row]) -> Interval | None:
    """Over examples and seeds; over seeds alone for a number of a whole set, which takes two of them."""
    (a, b) = ({seed: row.values for seed, row in side.items() if row.values is not None} for side in (mine, theirs))
    if a and b:
        return compare_paired(a, b)
    x, y = ([row.value for row in side.values()] for side in (mine, theirs))
    if len(x) < 2 or None in x or None in y:
        return None
    return paired_difference(np.array([x], float).T, np.array([y], float).T, np.random.default_rng(0))


def round_interval(interval: Interval | None) -> list[float] | None:
    if interval is None or interval.low is None or interval.high is None:
        return None
    return [round_number(x) for x in (interval.value, interval.low, interval.high)]


def round_number(x: float) -> float:
    return float(f"{x:.4g}")


def mean_value(rows: Rows, place: int) -> float | None:
    """Over seeds; None where one of them has none."""
    values = [row[place].value for row in rows.values()]
    known = [value for value in values if value is not None]
    return round_number(sum(known) / len(known)) if known and len(known) == len(values) else None


def summarise(values: Sequence[float]) -> list[float]:
    """Lower quartile, median, upper quartile."""
    return [round_number(float(v)) for v in np.quantile(values, (0.25, 0.5, 0.75))]


def read_ways(path: Path) -> Ways | None:
    """The study in a file; None where there is no such file. ValueError where it is another's."""
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA or "ways" not in content:
        raise ValueError(f"{path}: not a study of experiments/studies/frontier.py")
    return build_ways(content)


def build_ways(content: Mapping[str, Any]) -> Ways:
    """The study from what its file holds."""
    columns = [Column(**column) for column in content["columns"]]
    return Ways(columns, [read_entry(node) for node in content["ways"]], content)


def read_entry(node: Mapping[str, Any]) -> Entry:
    cells = [Cell(value, *(None if d is None else Interval(*d) for d in pairs)) for value, *pairs in node["rows"]]
    low, middle, high = node["time_ratio"]
    return Entry(node["name"], middle, low, high, node["fewer_steps"], cells)


# What it answers


def choose_way(ways: Ways, saved: float) -> Entry | None:
    """What to take for so much less time: the way that beats fewer steps at most tasks and loses to them at none.

    Else the most steps that keep the time; None where not even one step does.
    """
    limit = 1 - saved + 1e-9
    rivals = [e for e in ways.entries if limit - ROOM < e.time <= limit and e.fewer is not None]
    sure = [e for e in rivals if not ways.list_tasks(e, "fewer", -1) and ways.list_tasks(e, "fewer", 1)]
    if sure:
        return max(sure, key=lambda e: (len(ways.list_tasks(e, "fewer", 1)), -e.time))
    return max((e for e in ways.entries if e.fewer is None and e.time <= limit), key=lambda e: e.time, default=None)


def list_choices(ways: Ways) -> Iterator[str]:
    """A Markdown table: what to take for how much less time."""
    yield "| less time | take | time | better than fewer steps at | worse than the whole drawing at |"
    yield "|---|---|---|---|---|"
    for saved in SAVINGS:
        if (entry := choose_way(ways, saved)) is not None:
            told = (", ".join(ways.list_tasks(entry, *which)) or "nothing" for which in (("fewer", 1), ("whole", -1)))
            yield "| " + " | ".join([f"{saved:.0%}", entry.name, f"{entry.time:.0%}", *told]) + " |"


def list_entries(ways: Ways) -> Iterator[str]:
    """A Markdown table of all ways, the slowest first."""
    places = ways.headlines
    titles = [f"{ways.columns[k].task} {ways.columns[k].metric} {ARROWS[ways.columns[k].direction]}" for k in places]
    yield "| " + " | ".join(["drawing", "time", "as long as", *titles]) + " |"
    yield "|---" * (3 + len(places)) + "|"
    for entry in sorted(ways.entries, key=lambda e: -e.time):
        spread = f"{entry.time:.0%} ({entry.low:.0%} to {entry.high:.0%})"
        cells = [format_cell(ways, entry, k) for k in places]
        yield "| " + " | ".join([entry.name, spread, entry.fewer or "", *cells]) + " |"


def format_cell(ways: Ways, entry: Entry, place: int) -> str:
    cell = entry.cells[place]
    if cell.value is None:
        return "no value"
    sign = "" if cell.whole is None else f" {SIGNS[ways.compare(entry, place, 'whole')]}"
    return f"{number(cell.value)}{sign}{MARKS[ways.compare(entry, place, 'fewer')]}"


def describe_aim(ways: Ways) -> str:
    """Whether a way is 1.4 times faster without a sure loss at three tasks, and whether one beats fewer steps."""
    fast = [e for e in ways.entries if e.time <= 1 / AIM]
    needed = len(ways.headlines) - 1
    free = [e.name for e in fast if len(ways.headlines) - len(ways.list_tasks(e, "whole", -1)) >= max(1, needed)]
    beat = [e.name for e in ways.entries if choose_sure(ways, e)]
    first = f"At least {AIM:g} times faster with no sure loss at {max(1, needed)} or more tasks: {join(free)}."
    return f"{first} Surely better than fewer steps of its time at a task, and surely worse at none: {join(beat)}."


def choose_sure(ways: Ways, entry: Entry) -> bool:
    """Whether a way beats fewer steps of its time."""
    better, worse = (ways.list_tasks(entry, "fewer", verdict) for verdict in (1, -1))
    return entry.fewer is not None and bool(better) and not worse


def join(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def describe_study(ways: Ways) -> str:
    """Where the figures come from, in one sentence."""
    about = ways.about
    seeds, tasks = len(about["seeds"]), len({column.task for column in ways.columns})
    return (
        f"{about['per_task']} test examples of each of {tasks} tasks, {seeds} seed{'s' * (seeds > 1)}, "
        f"{about['steps']} steps in the whole drawing; time of the denoiser for one picture ({about['timed']}), "
        f"{about['repeats']} turns, on {about['device']}."
    )
