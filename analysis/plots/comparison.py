"""Methods side by side: the table, and a forest of intervals for every metric."""

from collections.abc import Sequence
from typing import Any

from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mtdiff.results.render import STYLE, html_by_task
from mtdiff.results.study import Study
from mtdiff.results.summary import summarise
from mtdiff.results.table import Cell, Column, Line, Table, keep_columns
from mtdiff.results.variants import methods, options, select_ablation

from .canvas import draw_point, make_panels, say, show_figure, style_line, title_column

NARROW = (  # no table is wider than its window
    "table{max-width:100%}th,td{white-space:normal!important;overflow-wrap:anywhere}td small{white-space:nowrap}"
    "@media(max-width:700px){body{margin:1em!important}table{font-size:11px;table-layout:fixed;width:100%}"
    "th,td{padding:.2em .25em!important}td small{white-space:normal}}"
)


def show_table(study: Study, columns: Sequence[Column] | None = None) -> None:
    """Methods x tasks with intervals; best, and what is not significantly worse, marked. columns: all if not given."""
    if not study.runs:
        say("No results, so there is no table.")
        return
    made = summarise(study.results)
    show_made(made if columns is None else keep_columns(made, [c for c in columns if c in made.columns]))


def show_made(table: Table) -> None:
    """A table as narrow ones, one a task."""
    display(HTML(f"<style>{STYLE}{NARROW}</style>{html_by_task(table)}"))


def draw_forest(study: Study, columns: Sequence[Column] | None = None, name: str = "comparison") -> None:
    """One panel per metric: every line's value and interval. A star is the best, a hollow star is not surely worse."""
    made = summarise(study.results)
    chosen = [c for c in (columns if columns is not None else study.headlines) if c in made.columns]
    if not chosen or not study.complete:
        say("No complete run, so there is no comparison to draw.")
        return
    per_row = min(4, len(chosen))
    rows = -(-len(chosen) // per_row)
    figure, panels = make_panels(rows, per_row, 2.6, 0.6 + 0.24 * len(made.lines))
    for k, (axes, column) in enumerate(zip(panels.flat, chosen, strict=False)):
        i = made.columns.index(column)
        for y, line in enumerate(made.lines):
            draw_line(axes, y, line, line.cells[i])
        axes.set_title(title_column(column))
        axes.set_ylim(len(made.lines) - 0.5, -0.5)
        axes.set_yticks(range(len(made.lines)))
        axes.set_yticklabels([line.label for line in made.lines] if k % per_row == 0 else [])
    for axes in panels.flat[len(chosen) :]:
        axes.remove()
    figure.legend(handles=list_marks(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    show_figure(figure, name, "Values with 95 % intervals of every method and reference, a panel for each metric")


def draw_line(axes: Axes, y: int, line: Line, cell: Cell) -> None:
    if cell.interval is None:
        return
    draw_point(axes, y, cell.interval, False, **style_line(line))
    if cell.best or cell.tied:
        place: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.plot([1.02], [y], marker="*", ms=7, color="#222", mfc="#222" if cell.best else "white", **place)


def list_marks() -> list[Line2D]:
    star: dict[str, Any] = {"marker": "*", "ls": "", "color": "#222", "ms": 8}
    return [
        Line2D([], [], **star, label="best"),
        Line2D([], [], **star, mfc="white", label="not significantly worse than the best (5 %)"),
        Line2D([], [], marker="|", ls="", color="#888888", label="reference, not trained for the task"),
    ]


def draw_further_metrics(study: Study) -> None:
    """As `draw_forest`, for every metric that is not the first of its task."""
    others = [column for column in study.columns if column not in study.headlines]
    if others:
        draw_forest(study, others, "comparison_further")
    else:
        say("The tasks have no further metrics.")


def draw_balancings(study: Study) -> None:
    """Every loss balancing under every method that was run with more than one."""
    found = False
    for method in methods(study):
        part = select_ablation(study, method, "balancing")
        if len({repr(sorted(options(run.result).items())) for run in part.complete}) > 1:
            found = True
            draw_forest(part, name=f"balancing_{method}")
    if not found:
        say("The results hold one loss balancing alone.")
