"""Two, four, seven and ten tasks: each task's first metric and the routers, by how many tasks are learnt."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mtdiff.results.questions.company import (
    MERGE_HEAD,
    TASK_SETS,
    Mixer,
    list_company_cells,
    list_merge_costs,
    list_mixers,
    list_starvation,
    summarise_merged,
)
from mtdiff.results.render import Aside, html_aside
from mtdiff.results.study import Study
from mtdiff.results.table import Cell

from .canvas import draw_point, make_panels, say, show_figure, title_column
from .comparison import show_made

TAB = mpl.colormaps["tab10"]


def draw_number_of_tasks(study: Study) -> None:
    """The first metric of every task against the number of tasks, a line for each method and number of experts."""
    found = list_company_cells(study.every)
    if not found:
        say("No result is of more than four tasks (suite=tasks makes them).")
        return
    names = list(dict.fromkeys(name for cells in found.values() for name, _ in cells))
    per_row = min(5, len(found))
    rows = -(-len(found) // per_row)
    figure, panels = make_panels(rows, per_row, 2.5, 2.3)
    for axes, (column, cells) in zip(panels.flat, found.items(), strict=False):
        for k, name in enumerate(names):
            draw_by_number(axes, {n: cell for (own, n), cell in cells.items() if own == name}, TAB(k % 10))
        axes.set_title(title_column(column))
        axes.set_xticks(TASK_SETS)
        axes.set_xlabel("tasks")
    for axes in panels.flat[len(found) :]:
        axes.remove()
    handles = [Line2D([], [], marker="o", ms=4, lw=1, color=TAB(k % 10), label=name) for k, name in enumerate(names)]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    show_figure(figure, "number_of_tasks", "First metric of every task by the number of tasks, with 95 % intervals")


def draw_by_number(axes: Axes, cells: Mapping[int, Cell], shade: Any) -> None:
    known = {n: cell.interval for n, cell in sorted(cells.items()) if cell.interval is not None}
    for n, interval in known.items():
        draw_point(axes, n, interval, True, color=shade, ms=4)
    axes.plot(list(known), [interval.value for interval in known.values()], color=shade, lw=1)


def draw_mixers(study: Study) -> None:
    """Entropy of the routers' weights, and the distance between tasks, by the number of tasks; a point a seed."""
    found: dict[str, dict[int, list[Mixer]]] = defaultdict(dict)
    for (name, number), mixers in list_mixers(study.every).items():
        found[name][number] = mixers
    if not found:
        say("No result of more than four tasks carries router weights.")
        return
    figure, panels = make_panels(1, 2, 4.2, 2.6)
    for k, (name, by_number) in enumerate(found.items()):
        for axes, measure in zip(panels[0], ("entropy", "distance"), strict=True):
            points = [(n, getattr(m, measure)) for n, mixers in by_number.items() for m in mixers]
            axes.plot(*zip(*points, strict=True), "o", ms=4, color=TAB(k % 10), alpha=0.5)
            means = {
                n: float(np.mean([getattr(m, measure) for m in mixers])) for n, mixers in sorted(by_number.items())
            }
            axes.plot(list(means), list(means.values()), color=TAB(k % 10), lw=1, label=name)
    for axes, label in zip(
        panels[0], ("entropy, of an even mix's", "distance between two tasks' weights"), strict=True
    ):
        axes.set_xticks(TASK_SETS)
        axes.set_xlabel("tasks")
        axes.set_ylabel(label)
    panels[0, 0].legend(frameon=False, fontsize=8)
    show_figure(figure, "mixers", "Entropy of router weights and distance between tasks by the number of tasks")


def draw_starvation(study: Study) -> None:
    """Of the most tasks, the validation error that is left of the first one, a line a method."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for name, task, kept, _ in list_starvation(study.every):
        found[name][task] = kept
    if not found:
        say("No result of more than four tasks tells of validation errors (`starvation`).")
        return
    tasks = list(next(iter(found.values())))
    figure, panels = make_panels(1, 1, 8.5, 3.0)
    for k, (name, left) in enumerate(found.items()):
        panels[0, 0].plot(
            range(len(tasks)), [left.get(task, np.nan) for task in tasks], "o-", color=TAB(k % 10), label=name
        )
    panels[0, 0].axhline(1, color="#222", lw=0.8)
    panels[0, 0].set_xticks(range(len(tasks)), tasks, rotation=20, ha="right")
    panels[0, 0].set_ylabel("validation error left\n(above 1: starved)")
    panels[0, 0].legend(frameon=False, fontsize=8)
    show_figure(figure, "starvation", "Validation error of every task at the end, as a share of the first one")


def show_merged(study: Study) -> None:
    """Mergers of single-task models beside those models and joint ones."""
    table = summarise_merged(study)
    if not table.lines:
        say("The results hold no merger (experiments/studies/merging.py makes them).")
        return
    show_made(table)
    display(HTML(html_aside(Aside("What merging took", MERGE_HEAD, list(list_merge_costs(study))))))
