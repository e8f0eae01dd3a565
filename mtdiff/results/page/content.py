"""All that a report page shows, as plain JSON values: the page itself computes nothing but where a mark is drawn.

Numbers, intervals, ranks and paired differences come from the same functions as the tables (mtdiff.results.table).
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from mtdiff.errors import shown
from mtdiff.results.find import Found
from mtdiff.results.frontier import find_undominated
from mtdiff.results.page.strips import Store, describe_pictures
from mtdiff.results.page.verdicts import judge_task
from mtdiff.results.paired import compare_paired
from mtdiff.results.protocol import every_option
from mtdiff.results.record import Result
from mtdiff.results.render import ARROWS, LEGEND, seeds
from mtdiff.results.study import Run, Study, describe_difference, read_studies
from mtdiff.results.summary import summarise
from mtdiff.results.table import Cell, Column, Line, Table

COSTS = {
    "flops": "FLOPs of one call",
    "latency_ms": "latency of one call, ms",
    "memory_mb": "peak memory of one call, MB",
    "trainable": "parameters trained",
    "total": "parameters used by one call",
    "total_for_all_tasks": "parameters to serve all tasks",
    "examples": "examples of each task seen in training",
}
DIFFERENCES = 1500
"""Paired differences at most, of all pairs of lines in all columns; beyond, each line against the best alone."""
POINTS = 300  # of a learning curve
DIGITS = 5


def describe_results(found: Sequence[Found], store: Store) -> dict[str, Any]:
    """The content of a page over results. ValueError where none can be read."""
    studies, notes = read_studies(found)
    if not studies:
        raise ValueError(notes[0] if notes else "there are no results")
    described = [describe_study(study, studies[0], store) for study in studies]
    return {"studies": described, "notes": [shown(note, 500) for note in notes], "legend": LEGEND, "costs": COSTS}


def describe_study(study: Study, first: Study, store: Store) -> dict[str, Any]:
    table = summarise(study.results)
    places = {id(run.result): i for i, run in enumerate(study.runs)}
    lines = list(name_lines(study, table))
    labels = [label_run(run.result, line, study) for run, line in zip(study.runs, lines, strict=True)]
    walls, left_out = describe_pictures(study.runs, labels, store)
    notes = [*study.notes, *table.notes, *left_out, *list_reasons(table)]
    return {
        "name": name_study(study, first),
        "columns": [describe_column(column, study) for column in table.columns],
        "lines": [describe_line(line, places) for line in table.lines],
        "verdicts": [describe_verdict(table, column) for column in study.headlines if column in table.columns],
        "undominated": {key: [list_undominated(table, i, key) for i in range(len(table.columns))] for key in COSTS},
        "differences": list(list_differences(table)),
        "runs": [describe_run(*parts) for parts in zip(study.runs, lines, labels, strict=True)],
        "walls": walls,
        "notes": [shown(note, 500) for note in dict.fromkeys(notes)],
    }


def name_study(study: Study, first: Study) -> str:
    """`nano/emoji: 12 runs`, and what makes it another study than the first."""
    result = study.runs[0].result
    name = f"{result.backbone}/{result.data}: {len(study.runs)} run{'s' if len(study.runs) > 1 else ''}"
    other = "" if study is first else f" ({describe_difference(result, first.runs[0].result)})"
    return shown(name + other, 200)


def describe_column(column: Column, study: Study) -> dict[str, Any]:
    name = f"{column.metric} {ARROWS[column.direction]}"
    first = column in study.headlines
    return {"task": shown(column.task), "metric": shown(name), "direction": column.direction, "headline": first}


def describe_verdict(table: Table, column: Column) -> dict[str, Any]:
    found = judge_task(table, column)
    lead, asides = shown(found.lead, 1000), [shown(aside, 300) for aside in found.asides]
    return {"task": shown(found.task), "lead": lead, "asides": asides, "tie": found.tie}


def describe_line(line: Line, places: Mapping[int, int]) -> dict[str, Any]:
    runs = [places[id(run)] for run in line.runs if id(run) in places]
    return {
        "label": shown(line.label, 300),
        "reference": line.reference,
        "seeds": seeds(line),
        "cells": [describe_cell(cell) for cell in line.cells],
        "cost": {key: round_number(getattr(line.cost, key)) for key in COSTS},
        "runs": [] if line.reference else runs,
    }


def describe_cell(cell: Cell) -> dict[str, Any]:
    if cell.interval is None:
        return {"reason": shown(cell.reason or "not measured", 500)}
    interval = cell.interval
    made = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {
        **{key: round_number(value) for key, value in made.items()},
        "seeds": cell.seeds,
        "n": cell.n,
        "mark": "best" if cell.best else "tied" if cell.tied else "",
        "note": shown(cell.note, 500) if cell.note else None,
        "values": {str(seed): round_number(value) for seed, value in cell.values.items()},
        "scores": {str(seed): [round_number(x) for x in row] for seed, row in cell.scores.items()},
    }


def round_number(value: float | None) -> float | None:
    """A number as it is shown, short in the file."""
    return None if value is None else float(f"{value:.{DIGITS}g}")


def list_reasons(table: Table) -> Iterator[str]:
    """Why cells are empty or lack runs, each once; what does not apply is no gap."""
    for line in table.lines:
        for cell, column in zip(line.cells, table.columns, strict=True):
            why = cell.reason or cell.note
            if why and why not in ("does not apply", "not trained on this task"):
                yield f"{line.label}, {column.task} {column.metric}: {why}"


# The frontier


def list_undominated(table: Table, i: int, key: str) -> list[int]:
    """Places of the lines that no other beats in a column at a cost that is not higher, by their costs."""
    sign = 1 if table.columns[i].direction == "higher" else -1
    points = {}
    for k, line in enumerate(table.lines):
        cost, interval = getattr(line.cost, key), line.cells[i].interval
        if cost is not None and interval is not None:
            points[k] = (cost, sign * interval.value)
    places = list(points)
    return [places[k] for k in find_undominated(list(points.values()))]


# Differences


def list_differences(table: Table) -> Iterator[dict[str, Any]]:
    """Paired differences of lines that carry scores, in each column: of all pairs, or of each line and the best."""
    lines = [k for k, line in enumerate(table.lines) if not line.reference]
    every = len(lines) * (len(lines) - 1) // 2 * len(table.columns) <= DIFFERENCES
    for i in range(len(table.columns)):
        scored = [k for k in lines if table.lines[k].cells[i].scores]
        best = [k for k in scored if table.lines[k].cells[i].best]
        pairs = combinations(scored, 2) if every else ((k, best[0]) for k in scored if best and k != best[0])
        for a, b in pairs:
            found = compare_paired(table.lines[a].cells[i].scores, table.lines[b].cells[i].scores)
            if found is not None:
                made = {"value": found.value, "low": found.low, "high": found.high, "p": found.p}
                rounded = {key: round_number(value) for key, value in made.items()}
                yield {"column": i, "a": a, "b": b, "n": found.n, **rounded}


# Runs


def name_lines(study: Study, table: Table) -> Iterator[str]:
    """The line of the table that each run belongs to."""
    lines = {id(run): line.label for line in table.lines if not line.reference for run in line.runs}
    return (shown(lines[id(run.result)], 300) for run in study.runs)


def label_run(result: Result, line: str, study: Study) -> str:
    """A run's line and seed, and its task where the line is of models of one task."""
    alone = [result.tasks[0]] if len(result.tasks) == 1 < len(study.tasks) else []
    return shown(", ".join([line, *alone, f"seed {result.seed}"]), 300)


def describe_run(run: Run, line: str, label: str) -> dict[str, Any]:
    result = run.result
    return {
        "name": shown(name_run(run.path)),
        "line": line,
        "label": label,
        "status": result.status,
        "error": shown(result.error, 500) if result.error else None,
        "seed": result.seed,
        "options": {shown(key, 200): shown(value, 200) for key, value in every_option(result).items()},
        "curves": dict(read_curves(result)),
        "origin": describe_origin(result),
    }


def name_run(path: Path) -> str:
    return path.parent.name if path.name == "result.json" else path.stem


def describe_origin(result: Result) -> dict[str, str]:
    """Where a run comes from: commit, data, machine, versions, time."""
    commit = (result.git.get("commit") or "unknown")[:12] + (" with changes" if result.git.get("dirty") else "")
    times = [f"{name} {seconds:.0f} s" for name, seconds in result.seconds.items() if seconds is not None]
    versions = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    data = str(result.method_report.get("data_hash") or "not recorded")[:16]
    made = {"commit": commit, "data": data, "device": result.device, "time": ", ".join(times), "versions": versions}
    made["parts"] = "; ".join(map(describe_part, result.parts))
    return {key: shown(value, 500) for key, value in made.items()}


def describe_part(part: Mapping[str, Any]) -> str:
    """One of the adapters that a merged or summed run is made of: `1 x lora_ffn on edit, seed 0`."""
    tasks = part.get("tasks")
    named = ", ".join(map(str, tasks)) if isinstance(tasks, list) else "unknown tasks"
    return f"{part.get('weight', '?')} x {part.get('method', '?')} on {named}, seed {part.get('seed', '?')}"


def read_curves(result: Result) -> Iterator[tuple[str, list[list[float]]]]:
    """The learning curves that a result keeps, as [step, value] pairs; what is not one is passed over."""
    curves = result.method_report.get("curves")
    for name, curve in curves.items() if isinstance(curves, dict) else ():
        steps, values = (curve.get(key) if isinstance(curve, dict) else None for key in ("steps", "values"))
        if isinstance(steps, list) and isinstance(values, list):
            points = [[s, v] for s, v in zip(steps, values, strict=False) if is_plain(s) and is_plain(v)]
            yield shown(name), [[s, round_number(v)] for s, v in points[:: max(1, -(-len(points) // POINTS))]]  # type: ignore[list-item,misc]


def is_plain(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
