"""What a run says on the terminal when it ends: its table, and where its pictures are."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtdiff.results.record import RUN, Result, Row

ARROWS = {"lower": "↓", "higher": "↑"}
WIDTH = 110  # columns that the table needs not to break its numbers


def number(row: Row | None) -> str:
    """A value, with half its 95 % interval for the run itself; a dash for a missing one."""
    if row is None:
        return ""
    if row.value is None:
        return "-"
    if row.model != RUN or row.low is None or row.high is None:
        return f"{row.value:.3f}"
    return f"{row.value:.3f} ±{(row.high - row.low) / 2:.3f}"


def table(result: Result) -> Table:
    """One line per task and metric: the run first, then what was judged beside it on the same examples."""
    models = list(dict.fromkeys(r.model for r in result.rows))
    cells = {(r.task, r.metric, r.model): r for r in result.rows}
    made = Table(title=f"{result.method} on {result.backbone}/{result.data}, seed {result.seed}, {result.steps} steps")
    for heading in ("task", "metric", *models):
        made.add_column(heading, no_wrap=True)
    for task, metric, direction in dict.fromkeys((r.task, r.metric, r.direction) for r in result.rows):
        values = (number(cells.get((task, metric, model))) for model in models)
        made.add_row(task, f"{metric} {ARROWS[direction]}", *values)
    return made


def missing(result: Result) -> list[str]:
    """Why numbers are missing, each reason once."""
    return list(dict.fromkeys(f"{r.task} {r.metric}: {r.reason}" for r in result.rows if r.value is None))


def announce(result: Result, folder: Path, how: str) -> None:
    """Print the table, what is missing and why, and the paths."""
    console = Console()
    if console.width < WIDTH:
        console.width = WIDTH
    console.print(table(result))
    for line in missing(result):
        console.print(f"- {line}")
    console.print(f"{how}: {folder}/result.json, pictures in {folder}/samples/", soft_wrap=True)
