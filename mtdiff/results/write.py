"""A table of results as files: Markdown, a self-contained HTML page, LaTeX."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mtdiff.config.schema import refuse
from mtdiff.files.writing import write_atomically
from mtdiff.results.render import Aside, html, latex, markdown
from mtdiff.results.table import Table, keep_columns


def select_columns(table: Table, names: Sequence[str]) -> Table:
    """The table with the columns `task/metric` alone, in that order; all of them where none is named."""
    there = {f"{column.task}/{column.metric}": column for column in table.columns}
    for name in names:
        if name not in there:
            raise refuse("columns", name, list(there))
    return keep_columns(table, [there[name] for name in names] or table.columns)


def write_tables(table: Table, asides: Sequence[Aside], stem: str) -> Iterator[Path]:
    """Write `<stem>.md`, `.html` and `.tex`, and yield their paths."""
    writers: dict[str, Callable[[Table, Sequence[Aside]], str]] = {"md": markdown, "html": html, "tex": latex}
    for ending, render in writers.items():
        path = Path(f"{stem}.{ending}")
        write_atomically(path, render(table, asides))
        yield path
