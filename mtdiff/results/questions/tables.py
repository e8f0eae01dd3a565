"""Tables of a question of its own: groups of runs that the question names, in its order, as any table of ours."""

from collections.abc import Iterator, Mapping, Sequence

from mtdiff.results.cells import list_references, mean_cost, summarise_cell
from mtdiff.results.intervals import Interval
from mtdiff.results.protocol import protocol
from mtdiff.results.ranking import rank_lines
from mtdiff.results.record import Direction, Result
from mtdiff.results.render import Footnotes, markdown_notes, markdown_table
from mtdiff.results.summary import list_warnings
from mtdiff.results.table import Cell, Column, Cost, Line, Table

Groups = Mapping[str, Sequence[Result]]


def build_table(groups: Groups, columns: Sequence[Column], references: Sequence[str] = ()) -> Table:
    """A line for each group that has runs, with its name, and lines of the references that its runs were judged beside.

    Runs of a group are compared as they were judged: groups may differ in what a sample of their task shows.
    """
    present = {name: runs for name, runs in groups.items() if runs}
    lines = [build_line(name, runs, columns) for name, runs in present.items()]
    every = [run for runs in present.values() for run in runs]
    rules = {c.task: protocol(run, c.task) for c in reversed(columns) for run in every if holds_references(run, c.task)}
    kept = [column for column in columns if column.task in rules]
    found = [line for line in list_references(every, kept, rules) if line.label in references]
    beside = [spread_cells(line, kept, columns) for line in found]
    return Table(list(columns), [*rank_lines(lines, columns), *beside], list(list_warnings(every)))


def build_line(name: str, runs: Sequence[Result], columns: Sequence[Column]) -> Line:
    cells = []
    for column in columns:
        first = next((run for run in runs if column.task in run.tasks), None)
        rule = {} if first is None else protocol(first, column.task)
        cells.append(summarise_cell(column, runs, rule))
    return Line(name, cells, mean_cost(runs), runs=runs)


def holds_references(run: Result, task: str) -> bool:
    return any(row.task == task and row.model != "run" for row in run.rows)


def spread_cells(line: Line, own: Sequence[Column], columns: Sequence[Column]) -> Line:
    """A line of some columns as one of all of them."""
    cells = dict(zip(own, line.cells, strict=True))
    missing = Cell(None, reason="does not apply")
    return Line(line.label, [cells.get(c, missing) for c in columns], Cost(), reference=True, runs=line.runs)


def add_published(table: Table, label: str, values: Mapping[Column, float]) -> Table:
    """The table with a last line of figures that a paper prints; they are never ranked."""
    missing = Cell(None, reason="not given")
    cells = [Cell(Interval(values[c]), seeds=1) if c in values else missing for c in table.columns]
    return Table(table.columns, [*table.lines, Line(label, cells, Cost(), reference=True)], table.notes)


def find_columns(results: Sequence[Result], task: str, metrics: Sequence[str]) -> list[Column]:
    """Columns of a task whose metric begins with one of some words, in the order of the words; as results name them."""
    rows = {r.metric: r.direction for result in results for r in result.rows if r.task == task}
    found: list[tuple[str, Direction]] = []
    for start in metrics:
        exact = [name for name in rows if name == start]
        found += [(name, rows[name]) for name in (exact or sorted(n for n in rows if n.startswith(start)))]
    return [Column(task, name, direction) for name, direction in dict.fromkeys(found)]


def list_table_lines(table: Table, name: str) -> Iterator[str]:
    """Markdown of a table that stands on a page with others. name: of its footnotes."""
    footnote = Footnotes()
    for text in (markdown_table(table, footnote), markdown_notes(table, footnote)):
        yield text.replace("[^", f"[^{name}-") + "\n"
