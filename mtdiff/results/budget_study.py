"""The study of budgets, as experiments/studies/budgets.py writes it, and what it answers. No torch here.

Every supernet at every budget, and every model of one size, stands beside the whole network, beside fewer steps of it
that take as long, and beside the first supernet at the same budget: the one whose assembler sees the task.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mtdiff.files.reading import read_json
from mtdiff.results.intervals import Interval
from mtdiff.results.render import ARROWS, large, number
from mtdiff.results.table import Column
from mtdiff.results.ways import MARKS, SIGNS, judge_interval, pick_headlines

SCHEMA = 1
KIND = "budgets"
FEWER = "fewer steps"
LEGEND = (
    "FLOPs and time: of one call of the network that is left, counted and measured, as shares of the whole one's; of "
    "fewer steps, as shares of the whole drawing's; memory: of weights and activations; means over tasks. Signs as in "
    "[faster.md](faster.md#how-do-i-decide)."
)


@dataclass(frozen=True)
class Place:
    """A column of a network: its value, and differences to the whole one, to fewer steps, and to the first supernet."""

    value: float | None
    whole: Interval | None
    fewer: Interval | None
    first: Interval | None


@dataclass(frozen=True)
class Entry:
    """A network at a budget. of: the variant. costs: by task `time` and `flops` (shares), `memory_mb`, `steps`."""

    name: str
    of: str
    budget: float
    costs: Mapping[str, Mapping[str, float]]
    places: Sequence[Place]

    def mean(self, key: str) -> float:
        return sum(cost[key] for cost in self.costs.values()) / len(self.costs)


@dataclass(frozen=True)
class BudgetStudy:
    """kept: by task and budget, in how many seeds the first supernet keeps each module. about: the file's rest."""

    columns: Sequence[Column]
    entries: Sequence[Entry]
    modules: Sequence[str]
    kept: Mapping[str, Mapping[str, Sequence[int]]]
    about: Mapping[str, Any]

    @property
    def headlines(self) -> list[int]:
        """Of every task the column that tables and figures show."""
        return pick_headlines(self.columns, self.about)

    @property
    def first(self) -> str:
        """The variant that others are compared with."""
        return self.entries[0].of

    def compare(self, entry: Entry, place: int, against: str) -> int:
        """1, 0 or -1: surely better, unsure, surely worse in a column. against: whole, fewer or first."""
        interval: Interval | None = getattr(entry.places[place], against)
        return judge_interval(interval, self.columns[place].direction)


def read_budget_study(path: Path) -> BudgetStudy | None:
    """The study in a file; None where there is no such file. ValueError where it is another's."""
    if not path.exists():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or (content.get("schema"), content.get("kind")) != (SCHEMA, KIND):
        raise ValueError(f"{path}: not a study of experiments/studies/budgets.py")
    return build_budget_study(content)


def build_budget_study(content: Mapping[str, Any]) -> BudgetStudy:
    """The study from what its file holds."""
    columns = [Column(**column) for column in content["columns"]]
    entries = [read_entry(node) for node in content["networks"]]
    return BudgetStudy(columns, entries, content["modules"], content["kept"], content)


def read_entry(node: Mapping[str, Any]) -> Entry:
    places = [Place(value, *(None if d is None else Interval(*d) for d in pairs)) for value, *pairs in node["rows"]]
    return Entry(node["name"], node["of"], node["budget"], node["costs"], places)


# What it answers


def list_networks(study: BudgetStudy) -> Iterator[str]:
    """A Markdown table of all networks, budget by budget."""
    places = study.headlines
    titles = [f"{study.columns[k].task} {study.columns[k].metric} {ARROWS[study.columns[k].direction]}" for k in places]
    yield "| " + " | ".join(["network", "FLOPs", "time", "memory", *titles]) + " |"
    yield "|---" * (4 + len(places)) + "|"
    for entry in sorted(study.entries, key=lambda e: -e.budget):
        costs = [f"{entry.mean('flops'):.0%}", f"{entry.mean('time'):.0%}", f"{entry.mean('memory_mb'):.3g} MB"]
        cells = [format_place(study, entry, k) for k in places]
        yield "| " + " | ".join([entry.name, *costs, *cells]) + " |"


def format_place(study: BudgetStudy, entry: Entry, place: int) -> str:
    found = entry.places[place]
    if found.value is None:
        return "no value"
    sign = "" if found.whole is None else f" {SIGNS[study.compare(entry, place, 'whole')]}"
    return f"{number(found.value)}{sign}{MARKS[study.compare(entry, place, 'fewer')]}"


def describe_winner(study: BudgetStudy) -> str:
    """Where the first supernet is surely better than each of its rivals, and where it is surely worse."""
    told = []
    for name in dict.fromkeys(entry.of for entry in study.entries if entry.of != study.first):
        rivals = [entry for entry in study.entries if entry.of == name and any(p.first for p in entry.places)]
        verdicts = [study.compare(entry, k, "first") for entry in rivals for k in study.headlines]
        if verdicts:
            told.append(f"{name}: better at {verdicts.count(-1)}, worse at {verdicts.count(1)} of {len(verdicts)}")
    if not told:
        return "No rival was compared with the assembler that sees the task."
    return f"The assembler that sees the task against its rivals, over tasks and budgets: {'; '.join(told)}."


def describe_fewer(study: BudgetStudy) -> str:
    """Where the first supernet beats fewer steps of the whole network that take as long."""
    better, worse = (", ".join(list_verdicts(study, verdict)) or "none" for verdict in (1, -1))
    return f"Beside fewer steps of the whole network it is surely better at: {better}; surely worse at: {worse}."


def list_verdicts(study: BudgetStudy, verdict: int) -> Iterator[str]:
    """Tasks and budgets at which the first supernet compares so with fewer steps."""
    for entry in (entry for entry in study.entries if entry.of == study.first):
        for k in study.headlines:
            if study.compare(entry, k, "fewer") == verdict:
                yield f"{study.columns[k].task} at {entry.budget:g}"


def describe_promises(study: BudgetStudy) -> str:
    """Whether promised latencies were kept, and how long a search takes."""
    promises: Mapping[str, Any] = study.about["promises"]
    if not promises["apart"]:
        return "No promise was held against a measured time."
    seconds: Mapping[str, float] = promises["median_seconds"]
    steps = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    kept, farthest = promises["within_5_percent"], max(promises["apart"], key=abs)
    limits = f"Of {len(promises['apart'])} networks for random limits {kept} took within 5 % of the time promised"
    return f"{limits} (the farthest: {farthest:+.1%}); median {steps}."


def describe_kept(study: BudgetStudy) -> str:
    """How much of what is kept depends on the task."""
    told = []
    for budget in next(iter(study.kept.values())):
        rows = [study.kept[task][budget] for task in study.kept]
        differ = sum(len({row[k] for row in rows}) > 1 for k in range(len(study.modules)))
        told.append(f"{differ} at budget {float(budget):g}")
    return f"Of {large(len(study.modules))} modules so many are not kept alike by all tasks: {', '.join(told)}."


def describe_study(study: BudgetStudy) -> str:
    """Where the figures come from, in one sentence."""
    about, seeds = study.about, len(study.about["seeds"])
    return (
        f"{about['per_task']} test examples of each of {len(study.kept)} tasks, {seeds} seed{'s' * (seeds > 1)}, "
        f"{about['steps']} steps in the whole drawing; calls with one picture, {about['repeats']} turns, on "
        f"{about['device']}."
    )
