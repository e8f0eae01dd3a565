"""Many results -> one table: seeds averaged, references apart, gaps with their reasons. No torch here.

A line is a method under one configuration. Its runs differ in the seed alone, or, for single-task models, in the task:
such models form one line together. A column holds what was judged in the same way only (`mtdiff.results.protocol`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mtdiff.results.intervals import Interval, seed_interval
from mtdiff.results.paired import Scores, paired
from mtdiff.results.protocol import Protocol, commonest, every_option, protocol, unlike
from mtdiff.results.record import RUN, Direction, Found, Result, Row

VOLATILE = (
    "seed",
    "name",
    "run_dir",
    "packages",
    "logger",
    "progress",
    "training.workers",
    "training.sample_every",
    "training.validate_every",
    "training.save_every",
    "trainer.accelerator",
    "evaluation.baselines",
    "evaluation.batch_size",
    "evaluation.validation_per_task",
)
"""Configuration keys (with all below them) that do not make another experiment."""


@dataclass(frozen=True)
class Column:
    task: str
    metric: str
    direction: Direction


@dataclass(frozen=True)
class Cell:
    """interval: over seeds (Student's t) from two runs on, else over the one run's n examples.

    best, tied: best of its column; not significantly worse than the best. reason: why there is no interval.
    note: what is missing beside a value. scores: of each example, by seed, where the results carry them.
    """

    interval: Interval | None
    seeds: int = 0
    n: int = 0
    best: bool = False
    tied: bool = False
    reason: str | None = None
    note: str | None = None
    scores: Scores = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Cost:
    """Parameters: trained in a run, used by a call, needed for all tasks. flops of one call; median latency in ms."""

    trainable: float | None = None
    total: float | None = None
    total_for_all_tasks: float | None = None
    flops: float | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Line:
    label: str
    cells: list[Cell]
    cost: Cost
    reference: bool = False


@dataclass(frozen=True)
class Table:
    """notes: what makes lines incomparable, one sentence each."""

    columns: list[Column]
    lines: list[Line]
    notes: list[str]


Key = tuple[Any, ...]


def summarise_found(found: Sequence[Found]) -> Table:
    """As `summarise`, with a line of blanks for every file that cannot be read."""
    table = summarise([one.result for one in found if one.result is not None])
    unreadable = [
        Line(one.path.parent.name, [Cell(None, reason=one.reason)] * len(table.columns), Cost())
        for one in found
        if one.result is None
    ]
    ours = [line for line in table.lines if not line.reference]
    return replace(table, lines=[*ours, *unreadable, *table.lines[len(ours) :]])


def summarise(results: Sequence[Result]) -> Table:
    """Lines in the order of their first result, references after them; columns in the order of the first rows."""
    columns = list(dict.fromkeys(Column(r.task, r.metric, r.direction) for result in results for r in result.rows))
    tasks = list(dict.fromkeys(column.task for column in columns))
    columns.sort(key=lambda column: tasks.index(column.task))
    groups = _groups(results)
    rules = {task: commonest(results, task) for task in tasks}
    labels, notes = _labels(groups)
    lines = [
        Line(labels[k], [_cell(c, runs, rules[c.task]) for c in columns], _cost(runs)) for k, runs in groups.items()
    ]
    return Table(columns, [*_ranked(lines, columns), *_references(results, columns, rules)], [*notes, *_notes(results)])


# Grouping


def _settings(result: Result) -> dict[str, Any]:
    """What makes this run's configuration another one, except the task of a single-task model."""
    ignored = VOLATILE + (("tasks",) if len(result.tasks) == 1 else ())
    below = tuple(f"{key}." for key in ignored)
    return {k: v for k, v in every_option(result).items() if k not in ignored and not k.startswith(below)}


def _kin(result: Result) -> Key:
    """Runs that only options can tell apart."""
    scope = ("single task",) if len(result.tasks) == 1 else tuple(result.tasks)
    return result.method, result.backbone, result.data, scope


def _groups(results: Sequence[Result]) -> dict[Key, list[Result]]:
    groups: dict[Key, list[Result]] = defaultdict(list)
    for result in results:
        settings = tuple(sorted((k, repr(v)) for k, v in _settings(result).items()))
        groups[*_kin(result), settings].append(result)
    return dict(groups)


def _usual(kin: Sequence[Mapping[str, str]]) -> dict[str, str | None]:
    """Settings that are not the same in all lines -> the value that most lines have (None: they lack it)."""
    names = dict.fromkeys(name for settings in kin for name in settings)
    found = {name: Counter(settings.get(name) for settings in kin) for name in names}
    return {name: counts.most_common(1)[0][0] for name, counts in found.items() if len(counts) > 1}


def _mark(name: str, value: str | None) -> str:
    """`method.experts=4`; of a dotted class the last part alone."""
    if value is None:
        return f"no {name}"
    if name.endswith("._target_"):
        name, value = name.removesuffix("._target_"), value.strip("'").rpartition(".")[-1]
    return f"{name}={value}"


def _labels(groups: Mapping[Key, list[Result]]) -> tuple[dict[Key, str], list[str]]:
    """The method, and whatever else tells a line from the others; notes that complete it.

    Where lines differ in more than one setting, each names those in which it differs from most of them.
    """
    every = list(dict.fromkeys(task for runs in groups.values() for run in runs for task in run.tasks))
    backbones, data = ({key[i] for key in groups} for i in (1, 2))
    labels: dict[Key, str] = {}
    notes: dict[Key, str] = {}
    for key in groups:
        method, backbone, source, scope, settings = key
        marks = [backbone] * (len(backbones) > 1) + [source] * (len(data) > 1)
        marks += [] if set(scope) == set(every) or len(every) == 1 else [" + ".join(scope)]
        own, usual = dict(settings), _usual([dict(k[-1]) for k in groups if k[:-1] == key[:-1]])
        told = [name for name in usual if len(usual) == 1 or own.get(name) != usual[name]]
        if len(usual) > 1:
            rest = ", ".join(_mark(name, value) for name, value in usual.items() if value is not None)
            name = method + (f" ({', '.join(marks)})" if marks else "")
            notes[key[:-1]] = f"{name}, where a line says nothing else: {rest}."
        marks += [_mark(name, own.get(name)) for name in told]
        labels[key] = method + (f" ({', '.join(marks)})" if marks else "")
    return labels, list(notes.values())


def only(table: Table, columns: Sequence[Column]) -> Table:
    """The table with some of its columns, in that order."""
    places = [table.columns.index(column) for column in columns]
    lines = [replace(line, cells=[line.cells[k] for k in places]) for line in table.lines]
    return replace(table, columns=list(columns), lines=lines)


# Values


def _of(column: Column, results: Sequence[Result], model: str) -> list[Row]:
    rows = (row for result in results for row in result.rows if row.model == model)
    return [row for row in rows if (row.task, row.metric) == (column.task, column.metric)]


def _cell(column: Column, runs: Sequence[Result], rule: Protocol) -> Cell:
    """The mean over a line's complete runs of the column's task, judged as the column is."""
    concerned = [run for run in runs if column.task in run.tasks]
    if not concerned:
        return Cell(None, reason="not trained on this task")
    gaps = [_stopped(run) for run in concerned if run.status != "complete"]
    complete = [run for run in concerned if run.status == "complete"]
    alike = [run for run in complete if protocol(run, column.task) == rule]
    gaps += list(dict.fromkeys(unlike(protocol(run, column.task), rule) for run in complete if run not in alike))
    by_seed = {run.seed: row for run in alike for row in _of(column, [run], RUN)}
    rows = _of(column, alike, RUN)
    values = [row for row in rows if row.value is not None]
    gaps += list(dict.fromkeys(row.reason or "no reason given" for row in rows if row.value is None))
    reason = "; ".join(gaps) or "not measured"
    if not values:
        return Cell(None, reason=reason)
    note = f"{len(values)} of {len(concerned)} runs: {reason}" if len(values) < len(concerned) else None
    scores = {seed: row.values for seed, row in by_seed.items() if row.value is not None and row.values is not None}
    return replace(_combined(values), note=note, scores=scores)


def _stopped(run: Result) -> str:
    return f"seed {run.seed} {run.status}" + (f": {run.error}" if run.error else "")


def _combined(rows: Sequence[Row]) -> Cell:
    values = [row.value for row in rows if row.value is not None]
    one = len(values) == 1
    interval = Interval(values[0], rows[0].low, rows[0].high) if one else seed_interval(values)
    return Cell(interval, seeds=len(values), n=min(row.n for row in rows))


def _cost(runs: Sequence[Result]) -> Cost:
    """Means over a line's runs; `total_for_all_tasks` of each run counts all tasks of the comparison already."""
    return Cost(
        _mean(run.params["trainable"] for run in runs),
        _mean(run.params["total"] for run in runs),
        _mean(run.params["total_for_all_tasks"] for run in runs),
        _mean(run.cost["flops"] for run in runs),
        _mean(run.cost["latency_ms"]["median"] for run in runs),
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _references(results: Sequence[Result], columns: Sequence[Column], rules: Mapping[str, Protocol]) -> Iterator[Line]:
    """Lines of the rows that judge something else than a run. The same measurement in several runs counts once."""
    groups: dict[Key, list[Result]] = defaultdict(list)
    for result in results:
        for model in dict.fromkeys(row.model for row in result.rows if row.model != RUN):
            groups[model, result.backbone, result.data].append(result)
    for (model, backbone, data), runs in groups.items():
        marks = [backbone] * (len({k[1] for k in groups}) > 1) + [data] * (len({k[2] for k in groups}) > 1)
        label = model + (f" ({', '.join(marks)})" if marks else "")
        cells = [_reference_cell(column, runs, model, rules[column.task]) for column in columns]
        yield Line(label, cells, Cost(), reference=True)


def _reference_cell(column: Column, runs: Sequence[Result], model: str, rule: Protocol) -> Cell:
    alike = [run for run in runs if protocol(run, column.task) == rule]
    rows = list(dict.fromkeys(_of(column, alike, model)))
    values = [row for row in rows if row.value is not None]
    if values:
        return _combined(values)
    return Cell(None, reason=rows[0].reason if rows else "does not apply")


# Ranking


def worse_for_sure(cell: Interval, best: Interval, direction: Direction) -> bool | None:
    """Does the interval of the difference leave out zero? None where an interval is missing.

    The two intervals are joined as independent ones (Zou & Donner, Statistics in Medicine 2008). On shared examples
    that is conservative; `comparison.paired` finds more differences, where the results carry the scores themselves.
    """
    if cell.low is None or cell.high is None or best.low is None or best.high is None:
        return None
    if direction == "higher":
        return best.value - cell.value > math.hypot(best.value - best.low, cell.high - cell.value)
    return cell.value - best.value > math.hypot(best.high - best.value, cell.value - cell.low)


def _ranked(lines: Sequence[Line], columns: Sequence[Column]) -> list[Line]:
    """Mark the best of each column that at least two lines have, and those not significantly worse."""
    ranked = [_ranked_column([line.cells[i] for line in lines], column) for i, column in enumerate(columns)]
    return [replace(line, cells=[column[i] for column in ranked]) for i, line in enumerate(lines)]


def _ranked_column(cells: Sequence[Cell], column: Column) -> list[Cell]:
    intervals = [cell.interval for cell in cells if cell.interval is not None]
    if len(intervals) < 2:
        return list(cells)
    sign = 1 if column.direction == "higher" else -1
    first = max(intervals, key=lambda interval: sign * interval.value)
    best = next(cell for cell in cells if cell.interval is first)

    def marked(cell: Cell) -> Cell:
        if cell.interval is None:
            return cell
        if cell.interval.value == first.value:
            return replace(cell, best=True)
        return replace(cell, tied=_worse(cell, best, column.direction) is False)

    return [marked(cell) for cell in cells]


def _worse(cell: Cell, best: Cell, direction: Direction) -> bool | None:
    """By the paired test on the same examples where there are scores, else by the intervals."""
    found = paired(cell.scores, best.scores)
    if found is not None:
        return found.p < 0.05
    assert cell.interval is not None
    assert best.interval is not None
    return worse_for_sure(cell.interval, best.interval, direction)


# Warnings


def _samples_of_a_task(run: Result) -> list[int]:
    weights = run.config.get("weights") or {}
    shares = [weights.get(task, 1) for task in run.tasks]
    return [round(run.samples_seen * share / sum(shares)) for share in shares]


def _notes(results: Sequence[Result]) -> Iterator[str]:
    """What makes these runs hard to compare."""
    seen = sorted({n for run in results if run.status == "complete" for n in _samples_of_a_task(run)})
    if len(seen) > 1:
        yield f"Unequal budgets: {', '.join(f'{s:,}' for s in seen)} training samples of a task seen."
    commits = list(dict.fromkeys(run.git["commit"] for run in results))
    if len(commits) > 1:
        yield f"Runs of {len(commits)} commits: {', '.join((c or 'unknown')[:10] for c in commits)}."
    if dirty := sum(run.git["dirty"] is True for run in results):
        yield f"{dirty} of {len(results)} runs come from a working tree with uncommitted changes."
    for name in sorted({name for run in results for name in run.versions}):
        versions = list(dict.fromkeys(run.versions.get(name, "none") for run in results))
        if len(versions) > 1:
            yield f"Mixed versions of {name}: {', '.join(versions)}."
    devices = list(dict.fromkeys(run.device for run in results))
    if len(devices) > 1:
        yield f"Latencies are of different devices: {', '.join(devices)}."
