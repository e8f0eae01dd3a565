"""What a run says on the terminal when it ends: its table, and where its pictures are."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from mtdiff.results import Result, Row

ARROWS = {"lower": "↓", "higher": "↑"}


def number(row: Row) -> str:
    """A value with its interval, or why there is none."""
    if row.value is None:
        return f"- ({row.reason})"
    interval = "" if row.low is None or row.high is None else f" [{row.low:.3f}, {row.high:.3f}]"
    return f"{row.value:.3f}{interval}"


def table(result: Result) -> Table:
    """One line per task and metric; the run's own column first, then what was judged beside it."""
    models = list(dict.fromkeys(r.model for r in result.rows))
    cells = {(r.task, r.metric, r.model): number(r) for r in result.rows}
    made = Table(title=f"{result.method} on {result.backbone}/{result.data}, seed {result.seed}, {result.steps} steps")
    for heading in ("task", "metric", *models):
        made.add_column(heading)
    for task, metric, direction in dict.fromkeys((r.task, r.metric, r.direction) for r in result.rows):
        values = [cells.get((task, metric, model), "") for model in models]
        made.add_row(
            task, f"{metric} {ARROWS[direction]}", *(v.split(" [")[0] if i else v for i, v in enumerate(values))
        )
    return made


def announce(result: Result, folder: Path, how: str) -> None:
    console = Console()
    console.print(table(result))
    console.print(f"{how}: {folder}/result.json, pictures in {folder}/samples/", soft_wrap=True)
