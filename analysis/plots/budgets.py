"""Quality against the number of training examples: where methods separate, and where trivial answers are beaten."""

from collections import defaultdict
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mtdiff.results.render import large, number
from mtdiff.results.study import Study
from mtdiff.results.summary import summarise
from mtdiff.results.table import Cell, Column, Line, Table
from mtdiff.results.variants import select_main

from .canvas import (
    draw_point,
    leave_blank,
    make_panels,
    name_method,
    say,
    show_figure,
    style_line,
    title_column,
)

TRIVIAL = ("copy", "bicubic", "biharmonic", "base")
"""References that an adaptation has to beat; the autoencoder's floor is none."""
DASHES = dict(zip(TRIVIAL, ("--", ":", "-.", (0, (1, 3))), strict=True))


def summarise_budgets(study: Study) -> dict[int, Table]:
    """The main comparison at each number of examples of a task that has a complete run."""
    parts = {n: select_main(part) for n, part in study.budgets.items()}
    return {n: summarise(part.results) for n, part in parts.items() if part.complete}


def list_cells(tables: Mapping[int, Table], column: Column) -> dict[str, dict[int, tuple[Line, Cell]]]:
    """By label and examples, the lines that have a value of a column."""
    found: dict[str, dict[int, tuple[Line, Cell]]] = defaultdict(dict)
    for examples, table in tables.items():
        if column in table.columns:
            i = table.columns.index(column)
            for line in table.lines:
                if line.cells[i].interval is not None:
                    label = name_method(line) + (" (single task)" if "single task" in line.label else "")
                    found[label][examples] = (line, line.cells[i])
    return found


def draw_over_budgets(study: Study) -> None:
    """The first metric of every task against the examples of it that were seen, a line a method."""
    tables = summarise_budgets(study)
    if len(tables) < 2:
        say(f"The results hold {len(tables)} budget(s): nothing to compare over the number of examples.")
        return
    columns, drawn = study.headlines, dict[str, Line]()
    figure, panels = make_panels(1, len(columns), 3.0, 2.8)
    for axes, column in zip(panels[0], columns, strict=True):
        drawn |= draw_budget_panel(axes, list_cells(tables, column))
        axes.set_title(title_column(column))
        axes.set_xlabel("examples of the task")
    handles = [Line2D([], [], ms=5, **style_line(line), label=label) for label, line in drawn.items()]
    handles += [Line2D([], [], color="#888888", ls=DASHES[name], label=name) for name in TRIVIAL]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    show_figure(figure, "budgets", "Quality of every method against the examples it has seen, with 95 % intervals")


def draw_budget_panel(axes: Axes, found: Mapping[str, Mapping[int, tuple[Line, Cell]]]) -> dict[str, Line]:
    """Draw what a column says of each line; returns a line for each label that was drawn."""
    drawn: dict[str, Line] = {}
    if not found:
        leave_blank(axes, "no value")
    for label, cells in found.items():
        line, last = list(cells.values())[-1]
        assert last.interval is not None
        if line.reference:
            if label in TRIVIAL:
                axes.axhline(last.interval.value, color="#888888", ls=DASHES[label], lw=1, zorder=0)
            continue
        style = style_line(line)
        for examples, (_, cell) in cells.items():
            assert cell.interval is not None
            draw_point(axes, examples, cell.interval, True, **style)
        values = [cell.interval.value for _, cell in cells.values() if cell.interval is not None]
        axes.plot(list(cells), values, color=style["color"], lw=1, ls=":" if "single task" in label else "-")
        drawn[label] = line
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: large(x))
    return drawn


def find_separation(study: Study) -> str:
    """From how many examples on the best method of a task is surely ahead of every other one, and what that lead is."""
    tables = summarise_budgets(study)
    told = [text for column in study.headlines if (text := describe_separation(tables, column)) is not None]
    return f"Methods separate: {'; '.join(told)}." if told else "The results do not tell."


def describe_separation(tables: Mapping[int, Table], column: Column) -> str | None:
    """`edit: from 7200 examples of it on (mtu 0.21)`; None where no budget compares two methods."""
    marks = {n: find_leader(table, column) for n, table in tables.items() if column in table.columns}
    known = {n: mark for n, mark in marks.items() if mark is not None}
    if not known:
        return None
    alone: list[int] = []
    for n in reversed(known):
        if known[n][1]:
            break
        alone.append(n)
    if not alone:
        return f"{column.task}: at no budget up to {large(max(known))} examples of it"
    line, value = known[alone[-1]][0], known[alone[-1]][2]
    return f"{column.task}: from {large(alone[-1])} examples of it on ({line.label} {number(value)})"


def find_leader(table: Table, column: Column) -> tuple[Line, bool, float] | None:
    """The best line of a column, whether another ties with it, and its value; None with fewer than two lines."""
    i = table.columns.index(column)
    best = [line for line in table.lines if line.cells[i].best]
    if not best or (interval := best[0].cells[i].interval) is None:
        return None
    return best[0], len(best) > 1 or any(line.cells[i].tied for line in table.lines), interval.value
