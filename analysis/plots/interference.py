"""What training on several tasks together changes for each of them."""

from collections.abc import Sequence
from typing import Any

from mtdiff.results.changes import Change, find_yardstick, list_changes
from mtdiff.results.study import Study
from mtdiff.results.variants import methods

from .canvas import colour_method, draw_point, make_panels, say, show_figure, title_column


def draw_gains(study: Study) -> None:
    """Every method on all tasks together against single-task models: who starves, who gains."""
    against = find_yardstick(study)
    if against is None:
        say("The results hold no single-task model, so there is nothing to hold the others against.")
        return
    every = [change for method in methods(study) for change in list_changes(study, method, against)]
    found = [change for change in every if len(change.tasks) == len(study.tasks)]
    draw_changes(found, "gains", lambda c: c.method, f"change against {against} on the task alone")


def draw_company(study: Study) -> None:
    """Methods on subsets of the tasks, each against itself on every task alone."""
    found = {method: list_changes(study, method, method) for method in methods(study)}
    without = [method for method, part in found.items() if not any(change.interval for change in part)]
    for method in found:
        if method not in without:
            draw_method_company(found[method], method, study.tasks)
    if without or not found:
        say(f"No results of single tasks and of several to compare: {', '.join(without) or 'no method'}.")


def draw_method_company(found: Sequence[Change], method: str, tasks: Sequence[str]) -> None:

    def label(change: Change) -> str:
        others = [t for t in tasks if t in change.tasks and t != change.task]
        return "with " + ("all" if len(change.tasks) == len(tasks) else " + ".join(others))

    draw_changes(found, f"company_{method}", label, f"change against {method} on the task alone")


def draw_changes(found: Sequence[Change], name: str, label: Any, axis: str) -> None:
    """A panel per task, a line per label; right of zero is better. Filled: the interval leaves out zero."""
    known = [change for change in found if change.interval is not None]
    for reason in sorted({str(change.reason) for change in found if change.interval is None}):
        say(f"Left blank: {reason}.")
    if not known:
        say("Nothing can be compared with single-task models.")
        return
    columns = list(dict.fromkeys(change.column for change in known))
    most = max(sum(change.column == column for change in known) for column in columns)
    figure, panels = make_panels(1, len(columns), 2.8, 0.9 + 0.26 * most)
    for axes, column in zip(panels[0], columns, strict=True):
        part = [change for change in known if change.column == column]
        for y, change in enumerate(part):
            assert change.interval is not None
            i, shade = change.interval, colour_method(change.method)
            sure = i.low is not None and i.high is not None and (i.low > 0 or i.high < 0)
            draw_point(axes, y, i, False, color=shade, mfc=shade if sure else "white")
        axes.axvline(0, color="#222", lw=0.8)
        axes.set_yticks(range(len(part)), [label(change) for change in part], fontsize=8)
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.set_title(title_column(column))
        axes.set_xlabel("worse   |   better", fontsize=8)
    figure.suptitle(axis, fontsize=9)
    show_figure(figure, name, f"{axis}, with 95 % intervals, a panel for each task")
    pairs = sorted({change.seeds for change in known})
    say(
        "In the metric's own unit; right of zero is better than alone. Filled: the 95 % interval leaves out zero "
        "(paired over examples and seeds where scores are there, else over seeds). "
        f"Pairs of runs: {', '.join(map(str, pairs))}."
    )
