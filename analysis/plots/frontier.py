"""Cost against quality."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mtdiff.results.frontier import find_undominated
from mtdiff.results.render import large
from mtdiff.results.study import Study
from mtdiff.results.summary import summarise
from mtdiff.results.table import Column, Line

from .canvas import draw_point, leave_blank, make_panels, say, show_figure, style_line, title_column

COSTS = {
    "total_for_all_tasks": "parameters to serve all tasks",
    "trainable": "parameters trained in one run",
    "flops": "FLOPs of one call",
    "latency_ms": "latency of one call, ms",
}


def draw_frontier(study: Study) -> None:
    """Cost against quality, a row for each cost and a column for each task; the line joins what nothing dominates."""
    made = summarise(study.results)
    columns = [c for c in study.headlines if c in made.columns]
    if not columns or not study.complete:
        say("No complete run, so there is no frontier to draw.")
        return
    lines = [line for line in made.lines if not line.reference]
    figure, panels = make_panels(len(COSTS), len(columns), 2.5, 2.1)
    for row, (key, name) in zip(panels, COSTS.items(), strict=True):
        for axes, column in zip(row, columns, strict=True):
            draw_frontier_panel(axes, made.columns.index(column), column, lines, key)
            axes.set_xlabel(name)
            if key == next(iter(COSTS)):
                axes.set_title(title_column(column))
    handles = [Line2D([], [], ls="", ms=5, **style_line(line), label=line.label) for line in lines]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    show_figure(figure, "frontier", "Quality of every method against its costs; the line joins what nothing dominates")


def draw_frontier_panel(axes: Axes, i: int, column: Column, lines: Sequence[Line], key: str) -> None:
    known = [(getattr(line.cost, key), line.cells[i].interval, line) for line in lines]
    points = [(cost, interval, line) for cost, interval, line in known if cost is not None and interval is not None]
    if not points:
        leave_blank(axes, "not measured")
        return
    for cost, interval, line in points:
        draw_point(axes, cost, interval, True, **style_line(line))
    sign = 1 if column.direction == "higher" else -1
    best = [points[k] for k in find_undominated([(cost, sign * interval.value) for cost, interval, _ in points])]
    axes.plot(
        [cost for cost, _, _ in best],
        [interval.value for _, interval, _ in best],
        color="#bbbbbb",
        lw=1,
        zorder=0,
        drawstyle="steps-post",
    )
    if key != "latency_ms":
        axes.xaxis.set_major_formatter(lambda x, _: large(x))
    axes.tick_params(axis="x", labelrotation=30)
