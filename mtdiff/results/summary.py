"""Many results -> one table: seeds averaged, references apart, gaps with their reasons. No torch here."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mtdiff.results.cells import list_references, mean_cost, samples_per_task, summarise_cell
from mtdiff.results.find import Found
from mtdiff.results.grouping import group_results, label_lines
from mtdiff.results.protocol import find_commonest
from mtdiff.results.ranking import rank_lines
from mtdiff.results.record import Result
from mtdiff.results.table import Cell, Column, Cost, Line, Table


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
    groups = group_results(results)
    rules = {task: find_commonest(results, task) for task in tasks}
    labels, notes = label_lines(groups)
    lines = [
        Line(labels[k], [summarise_cell(c, runs, rules[c.task]) for c in columns], mean_cost(runs), runs=runs)
        for k, runs in groups.items()
    ]
    return Table(
        columns,
        [*rank_lines(lines, columns), *list_references(results, columns, rules)],
        [*notes, *list_warnings(results)],
    )


def list_warnings(results: Sequence[Result]) -> Iterator[str]:
    """What makes these runs hard to compare."""
    seen = sorted({n for run in results if run.status == "complete" for n in samples_per_task(run)})
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
