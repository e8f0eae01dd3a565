"""What one cell of a table says: the mean over its runs with an interval, or the reason why there is none."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from mtdiff.results.grouping import Key
from mtdiff.results.intervals import Interval, seed_interval
from mtdiff.results.protocol import Protocol, describe_protocol_gap, protocol
from mtdiff.results.record import RUN, Result, Row
from mtdiff.results.table import Cell, Column, Cost, Line


def select_rows(column: Column, results: Sequence[Result], model: str) -> list[Row]:
    rows = (row for result in results for row in result.rows if row.model == model)
    return [row for row in rows if (row.task, row.metric) == (column.task, column.metric)]


def summarise_cell(column: Column, runs: Sequence[Result], rule: Protocol) -> Cell:
    """The mean over a line's complete runs of the column's task, judged as the column is."""
    concerned = [run for run in runs if column.task in run.tasks]
    if not concerned:
        return Cell(None, reason="not trained on this task")
    gaps = [describe_stop(run) for run in concerned if run.status != "complete"]
    complete = [run for run in concerned if run.status == "complete"]
    alike = [run for run in complete if protocol(run, column.task) == rule]
    gaps += list(
        dict.fromkeys(describe_protocol_gap(protocol(run, column.task), rule) for run in complete if run not in alike)
    )
    by_seed = {run.seed: row for run in alike for row in select_rows(column, [run], RUN)}
    rows = select_rows(column, alike, RUN)
    values = [row for row in rows if row.value is not None]
    gaps += list(dict.fromkeys(row.reason or "no reason given" for row in rows if row.value is None))
    reason = "; ".join(gaps) or "not measured"
    if not values:
        return Cell(None, reason=reason)
    note = f"{len(values)} of {len(concerned)} runs: {reason}" if len(values) < len(concerned) else None
    scores = {seed: row.values for seed, row in by_seed.items() if row.value is not None and row.values is not None}
    known = {seed: row.value for seed, row in by_seed.items() if row.value is not None}
    return replace(combine_rows(values), note=note, scores=scores, values=known)


def describe_stop(run: Result) -> str:
    return f"seed {run.seed} {run.status}" + (f": {run.error}" if run.error else "")


def combine_rows(rows: Sequence[Row]) -> Cell:
    values = [row.value for row in rows if row.value is not None]
    one = len(values) == 1
    interval = Interval(values[0], rows[0].low, rows[0].high) if one else seed_interval(values)
    return Cell(interval, seeds=len(values), n=min(row.n for row in rows))


def mean_cost(runs: Sequence[Result]) -> Cost:
    """Means over a line's runs; `total_for_all_tasks` of each run counts all tasks of the comparison already."""
    return Cost(
        mean(run.params["trainable"] for run in runs),
        mean(run.params["total"] for run in runs),
        mean(run.params["total_for_all_tasks"] for run in runs),
        mean(run.cost["flops"] for run in runs),
        mean(run.cost["latency_ms"]["median"] for run in runs),
        mean(run.cost["peak_memory_mb"] for run in runs),
        mean(seen for run in runs for seen in samples_per_task(run)),
    )


def samples_per_task(run: Result) -> list[int]:
    """Training examples that a run has seen, of each of its tasks."""
    weights = run.config.get("weights") or {}
    shares = [weights.get(task, 1) for task in run.tasks]
    return [round(run.samples_seen * share / sum(shares)) for share in shares]


def mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def list_references(
    results: Sequence[Result], columns: Sequence[Column], rules: Mapping[str, Protocol]
) -> Iterator[Line]:
    """Lines of the rows that judge something else than a run. The same measurement in several runs counts once."""
    groups: dict[Key, list[Result]] = defaultdict(list)
    for result in results:
        for model in dict.fromkeys(row.model for row in result.rows if row.model != RUN):
            groups[model, result.backbone, result.data].append(result)
    for (model, backbone, data), runs in groups.items():
        marks = [backbone] * (len({k[1] for k in groups}) > 1) + [data] * (len({k[2] for k in groups}) > 1)
        label = model + (f" ({', '.join(marks)})" if marks else "")
        cells = [reference_cell(column, runs, model, rules[column.task]) for column in columns]
        yield Line(label, cells, Cost(), reference=True, runs=runs)


def reference_cell(column: Column, runs: Sequence[Result], model: str, rule: Protocol) -> Cell:
    alike = [run for run in runs if protocol(run, column.task) == rule]
    rows = list(dict.fromkeys(select_rows(column, alike, model)))
    values = [row for row in rows if row.value is not None]
    if values:
        return combine_rows(values)
    return Cell(None, reason=rows[0].reason if rows else "does not apply")
