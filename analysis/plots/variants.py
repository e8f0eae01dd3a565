"""Variants of one method: over a number that it takes, and all of them in a table."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from mtdiff.results.changes import rows_by_seed
from mtdiff.results.intervals import Interval, seed_interval
from mtdiff.results.study import Run, Study
from mtdiff.results.variants import options, select_ablation

from .canvas import colour_method, draw_point, make_panels, say, show_figure, title_column
from .comparison import show_table


def draw_over_number(study: Study, method: str, option: str, label: str) -> None:
    """A method's headline metrics over a number that it can be told, all else as in its central variant."""
    part = select_ablation(study, method, option)
    found: dict[Any, list[Run]] = defaultdict(list)
    for run in part.complete:
        value = options(run.result).get(option)
        if isinstance(value, int | float):
            found[value].append(run)
    if len(found) < 2:
        say(f"The results hold {len(found)} value(s) of {option} for {method}: nothing to compare over the {label}.")
        return
    columns = part.headlines
    figure, panels = make_panels(1, len(columns), 2.5, 2.4)
    for axes, column in zip(panels[0], columns, strict=True):
        for x, value in enumerate(sorted(found)):
            cell = over_seeds(rows_by_seed(found[value], column))
            if cell is not None:
                draw_point(axes, x, cell, True, color=colour_method(method))
        axes.set_xticks(range(len(found)), [f"{value:g}" for value in sorted(found)])
        axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_title(title_column(column))
        axes.set_xlabel(label)
    show_figure(figure, f"{method}_{label.replace(' ', '_')}", f"{method} over the {label}, with 95 % intervals")


def over_seeds(rows: Mapping[int, Any]) -> Interval | None:
    """The mean over seeds, or the one run's own interval."""
    if len(rows) == 1:
        (row,) = rows.values()
        return Interval(row.value, row.low, row.high)
    return seed_interval([row.value for row in rows.values()]) if rows else None


def show_variants(study: Study, method: str) -> None:
    """Every variant of a method on all tasks, as a table of each task's first metric and of LPIPS."""
    part = study.select(r for r in study.runs if r.result.method == method and len(r.result.tasks) == len(study.tasks))
    if len({repr(sorted(options(run.result).items())) for run in part.complete}) < 2:
        say(f"The results hold no further variant of {method}.")
        return
    show_table(part, [c for c in part.columns if c in part.headlines or c.metric.startswith("lpips")])
