"""Quality against the measured time of a drawing, and what a supernet keeps: studies beside the committed results."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mtdiff.results.budget_study import (
    BudgetStudy,
    describe_fewer,
    describe_kept,
    describe_winner,
    read_budget_study,
)
from mtdiff.results.study import Study
from mtdiff.results.ways import Ways, describe_aim, read_ways

from .canvas import colour_method, leave_blank, make_panels, say, show_figure, title_column
from .loading import COMMITTED

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "docs" / "measured"
KINDS = {"block": "#d55e00", "layer": "#0072b2", "unit": "#009e73", "light": "#cc79a7", "budget": "#e69f00"}
FEWER = "#888888"
Found = TypeVar("Found")


def find_file(study: Study, name: str, variable: str) -> Path:
    """The file that an environment variable names, else the committed one where the results are the committed ones."""
    if given := os.environ.get(variable):
        return Path(given)
    committed = Path(COMMITTED.partition("*")[0])
    own = any(run.path.resolve().is_relative_to(committed) for run in study.runs)
    return MEASURED / name if own else Path(os.devnull) / name


def read_file(study: Study, name: str, variable: str, read: Callable[[Path], Found | None]) -> Found | None:
    """What the file of a study holds; where there is none, that is said."""
    found = read(find_file(study, name, variable))
    if found is None:
        script = name.replace(".json", ".py")
        say(f"No results of experiments/studies/{script} are here; {variable}=<file> shows others.")
    return found


def draw_ways(study: Study) -> None:
    """Quality against the time of a drawing, a panel a task: fewer steps as a line, every other way as a point.

    MTDIFF_WAYS names the file of another study than the committed one.
    """
    ways = read_file(study, "frontier.json", "MTDIFF_WAYS", read_ways)
    if ways is None:
        return
    say(describe_aim(ways))
    places = ways.headlines
    figure, panels = make_panels(1, len(places), 3.0, 2.8)
    for axes, place in zip(panels[0], places, strict=True):
        draw_way_panel(axes, ways, place)
    names = list(dict.fromkeys(name_kind(entry.name) for entry in ways.entries if entry.fewer is not None))
    handles = [Line2D([], [], color=FEWER, marker=".", label="fewer steps")]
    handles += [Line2D([], [], ls="", marker="o", color=colour_kind(name), label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    show_figure(figure, "ways", "Quality against measured time; filled: surely better or worse than fewer steps")


def draw_way_panel(axes: Axes, ways: Ways, place: int) -> None:
    axes.set_title(title_column(ways.columns[place]))
    axes.set_xlabel("time of the whole drawing")
    points = [(e, value) for e in ways.entries if (value := e.cells[place].value) is not None]
    if not points:
        leave_blank(axes, "no value")
    line = sorted((entry.time, value) for entry, value in points if entry.fewer is None)
    axes.plot([x for x, _ in line], [y for _, y in line], color=FEWER, marker=".", lw=1, zorder=0)
    for entry, value in points:
        if entry.fewer is not None:
            colour = colour_kind(name_kind(entry.name))
            fill = colour if ways.compare(entry, place, "fewer") else "white"
            spread = [[max(0.0, entry.time - entry.low)], [max(0.0, entry.high - entry.time)]]
            axes.errorbar([entry.time], [value], xerr=spread, marker="o", ms=5, color=colour, mfc=fill, lw=1)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:.0%}")


def name_kind(name: str) -> str:
    """`block every 3` -> `block`; a lighter network has its own name."""
    first = name.split(" ")[0]
    return first if first in KINDS else name


def colour_kind(name: str) -> str:
    return KINDS.get(name) or colour_method(name)


def draw_kept(study: Study) -> None:
    """Which modules each task keeps at each budget, in how many seeds. MTDIFF_BUDGETS names another study's file."""
    budgets = read_file(study, "budgets.json", "MTDIFF_BUDGETS", read_budget_study)
    if budgets is None:
        return
    for describe in (describe_winner, describe_fewer, describe_kept):
        say(describe(budgets))
    tasks, number = list(budgets.kept), len(budgets.modules)
    figure, panels = make_panels(1, len(tasks), 1.9, max(2.5, 0.14 * number))
    for k, (axes, task) in enumerate(zip(panels[0], tasks, strict=True)):
        draw_kept_panel(axes, budgets, task, named=k == 0)
    show_figure(figure, "kept", "Which modules of the supernet each task keeps at each budget; black: in every seed")


def draw_kept_panel(axes: Axes, budgets: BudgetStudy, task: str, *, named: bool) -> None:
    rows = budgets.kept[task]
    shares = [[counts[k] for counts in rows.values()] for k in range(len(budgets.modules))]
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=len(budgets.about["seeds"]), aspect="auto", interpolation="nearest")
    axes.set_title(task)
    axes.set_xlabel("budget")
    axes.set_xticks(range(len(rows)), list(rows), rotation=45)
    axes.set_yticks(range(len(budgets.modules)), budgets.modules if named else [""] * len(budgets.modules), fontsize=5)
    axes.grid(False)
