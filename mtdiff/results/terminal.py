"""What a run says on the terminal when it ends: its table, and where its pictures are."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from mtdiff.results.escape import escape_terminal
from mtdiff.results.record import RUN, Result, Row

ARROWS = {"lower": "↓", "higher": "↑"}
LARGE = 1e6  # from here on a number is written with an exponent
WIDEST = 100_000  # columns; wider than any table


def announce(result: Result, folder: Path, how: str) -> None:
    """Print the table, what is missing and why, and the paths. No figure and no name is ever cut."""
    console = Console(markup=False, emoji=False, highlight=False)
    title = f"{result.method} on {result.backbone}/{result.data}, seed {result.seed}, {result.steps} steps"
    print_lines(console, [title])
    table = build_table(result, console.encoding)
    if Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum <= console.width:
        console.print(table)
    else:
        print_lines(console, list_blocks(result))
    summary = result.method_report.get("summary")
    lines = [*list_gaps(result), *([summary] if isinstance(summary, str) else []), *list_starved(result)]
    print_lines(console, [f"- {line}" for line in lines])
    print_lines(console, [f"{how}: {folder}/result.json, pictures in {folder}/samples/"])


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Lines as they are: where one is longer than the terminal is wide, the terminal itself continues it below."""
    for line in lines:
        indent = line[: len(line) - len(line.lstrip())]
        console.print(indent + escape_terminal(line, console.encoding), soft_wrap=True)


def format_number(row: Row | None) -> str:
    """A value, with half its 95 % interval for the run itself; a dash for a missing one."""
    if row is None:
        return ""
    if row.value is None:
        return "-"
    digits = ".3f" if abs(row.value) < LARGE else ".3g"
    if row.model != RUN or row.low is None or row.high is None:
        return f"{row.value:{digits}}"
    return f"{row.value:{digits}} ±{(row.high - row.low) / 2:{digits}}"


def build_table(result: Result, encoding: str) -> Table:
    """One line per task and metric: the run first, then what was judged beside it on the same examples."""
    models = list(dict.fromkeys(r.model for r in result.rows))
    cells = {(r.task, r.metric, r.model): r for r in result.rows}
    made = Table()
    for heading in ("task", "metric", *models):
        made.add_column(escape_terminal(heading, encoding), no_wrap=True)
    for task, metric, direction in dict.fromkeys((r.task, r.metric, r.direction) for r in result.rows):
        values = (format_number(cells.get((task, metric, model))) for model in models)
        made.add_row(*(escape_terminal(text, encoding) for text in (task, f"{metric} {ARROWS[direction]}", *values)))
    return made


def list_blocks(result: Result) -> Iterator[str]:
    """The table's content for a narrow terminal: a block a task, and in it a line for each metric and model."""
    for task in dict.fromkeys(row.task for row in result.rows):
        yield task
        rows = [row for row in result.rows if row.task == task]
        for metric, direction in dict.fromkeys((row.metric, row.direction) for row in rows):
            yield f"  {metric} {ARROWS[direction]}"
            yield from (f"    {row.model} {format_number(row)}" for row in rows if row.metric == metric)


def list_gaps(result: Result) -> list[str]:
    """Why numbers are missing, each reason once."""
    return list(dict.fromkeys(f"{r.task} {r.metric}: {r.reason}" for r in result.rows if r.value is None))


def list_starved(result: Result) -> Iterator[str]:
    """A line for every task whose validation error has not fallen in training."""
    for task, report in result.starvation.items():
        errors = report.get("validation") if isinstance(report, dict) else None
        first, last = (errors.get(k) if isinstance(errors, dict) else None for k in ("first", "last"))
        if isinstance(first, int | float) and isinstance(last, int | float) and last > first:
            fell = f"its validation error has not fallen ({first:.4g} to {last:.4g})"
            yield f"{task}: {fell}, after {report.get('examples')} examples"
