"""Several modalities jointly: restoration against the masked share, and labels against the noise."""

from collections.abc import Mapping

import matplotlib as mpl
from matplotlib.axes import Axes

from mtdiff.results.questions.joint import (
    PUBLISHED,
    list_level_columns,
    list_share_columns,
    summarise_labels,
    summarise_restoration,
)
from mtdiff.results.study import Study
from mtdiff.results.table import Column, Line, Table

from .canvas import draw_point, make_panels, say, show_figure
from .comparison import show_made

TAB = mpl.colormaps["tab10"]


def draw_joint(study: Study) -> None:
    """LPIPS of restorations by masked share beside the paper's, and label accuracy by noise level, a line a setting."""
    results = [run.result for run in study.every]
    restored, told = summarise_restoration(results), summarise_labels(results)
    if not restored.lines and not told.lines:
        say("No result is of a joint task (suite=joint makes them).")
        return
    figure, panels = make_panels(1, 2, 4.6, 3.6)
    draw_levels(panels[0, 0], restored, list_share_columns(results))
    panels[0, 0].plot(list(PUBLISHED), list(PUBLISHED.values()), "k:", lw=1, label="published: -X, ImageNet 64 px")
    panels[0, 0].set_xlabel("masked share, %")
    panels[0, 0].set_ylabel("LPIPS of the restoration ↓")
    draw_levels(panels[0, 1], told, list_level_columns(results))
    panels[0, 1].set_xlabel("noise level, % of all times (0: the end)")
    panels[0, 1].set_ylabel("label accuracy ↑")
    for axes in panels[0]:
        axes.legend(frameon=False, fontsize=7)
    show_figure(figure, "joint", "Restoration by masked share and label accuracy by noise level, 95 % intervals")


def draw_levels(axes: Axes, table: Table, levels: Mapping[int, Column]) -> None:
    """A line for each line of the table that has values at the levels; references dashed."""
    places = {level: table.columns.index(column) for level, column in levels.items() if column in table.columns}
    for k, line in enumerate(line for line in table.lines if not line.label.startswith("published")):
        draw_level_line(axes, line, places, k)


def draw_level_line(axes: Axes, line: Line, places: Mapping[int, int], k: int) -> None:
    found = {level: line.cells[i].interval for level, i in places.items()}
    known = {level: interval for level, interval in found.items() if interval is not None}
    if not known:
        return
    shade = "#888888" if line.reference else TAB(k % 10)
    for level, interval in known.items():
        draw_point(axes, level, interval, True, color=shade, ms=3)
    style = "--" if line.reference else "-"
    axes.plot(list(known), [interval.value for interval in known.values()], style, color=shade, lw=1, label=line.label)


def show_joint(study: Study) -> None:
    """The tables behind the figure: settings with and without the single-task phase."""
    results = [run.result for run in study.every]
    for table in (summarise_restoration(results), summarise_labels(results)):
        if table.lines:
            show_made(table)
