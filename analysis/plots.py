"""What the notebooks draw. Each function takes a study and shows one figure or table, or a sentence where there is no
data for it: nothing missing ever becomes a number.

Figures are inline SVG. With MTDIFF_FIGURES=<folder> each is also written there as `<name>.pdf`.
"""

import base64
import io
import os
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mtdiff.results.changes import Change, list_changes, rows_by_seed, yardstick
from mtdiff.results.intervals import Interval, seed_interval
from mtdiff.results.render import ARROWS, STYLE, html_body, large
from mtdiff.results.samples import read_grid
from mtdiff.results.study import Run, Study, read
from mtdiff.results.summary import summarise
from mtdiff.results.table import Cell, Column, Line, only
from mtdiff.results.variants import methods, options, select_ablation, select_main

COMMITTED = str(Path(__file__).resolve().parents[1] / "experiments" / "results" / "**" / "*.json")
COLOURS = {  # Okabe & Ito: told apart by everyone
    "mtu": "#d55e00",
    "finetune": "#0072b2",
    "lora_ffn": "#009e73",
    "ia3": "#cc79a7",
    "dtr": "#e69f00",
    "one_pic": "#56b4e9",
}
OTHERS = ("#000000", "#7f7f7f", "#8c564b", "#9467bd", "#bcbd22")
TASK_MARKERS = ("o", "s", "^", "D", "v", "P")
mpl.rcParams |= {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "mtdiff",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a `$` in a name is a letter
}


# Showing


def load(results: str | None = None) -> Study:
    """The study in the files of a glob pattern: `results`, else MTDIFF_RESULTS, else what is committed."""
    patterns = results or os.environ.get("MTDIFF_RESULTS") or COMMITTED
    study = read(patterns)
    if study.runs:
        first = study.runs[0].result
        count, seeds = len(study.complete), sorted({run.result.seed for run in study.complete})
        say(
            f"Complete runs on {first.backbone}/{first.data}: {count}; not complete: {len(study.runs) - count}. "
            f"Seeds: {', '.join(map(str, seeds)) or 'none'}. Methods: {', '.join(methods(study))}."
        )
    for note in study.notes:
        say(note)
    return study


def say(text: str) -> None:
    display(HTML(f"<p>{escape(text)}</p>"))


def show(figure: Figure, name: str, description: str) -> None:
    folder = os.environ.get("MTDIFF_FIGURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(folder) / f"{name}.pdf")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    style = f"width:{figure.get_figwidth():.1f}in;max-width:100%"
    display(HTML(f'<img style="{style}" alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">'))


def colour(method: str) -> str:
    """The same for a method in every figure, also for one that is not ours."""
    return COLOURS.get(method) or OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]


def method_of(line: Line) -> str:
    return line.label.split(" (")[0]


def title(column: Column) -> str:
    return f"{column.task}\n{column.metric.replace('_similarity_', '_sim._')} {ARROWS[column.direction]}"


def grid(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure, and its panels (rows, columns) of a size in inches."""
    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False)


def blank(axes: Axes, text: str) -> None:
    """A panel without data says why."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#666", wrap=True, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def bars(x: float, interval: Interval) -> list[list[float]] | None:
    """What matplotlib calls the errors of a point; None without bounds."""
    if interval.low is None or interval.high is None:
        return None
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]


def point(axes: Axes, x: float, interval: Interval, upright: bool, **style: Any) -> None:
    """A value with its interval, which lies along y where `upright`."""
    error = bars(x, interval)
    style = {"marker": "o", "ms": 5, "capsize": 2, "lw": 1, **style}
    if upright:
        axes.errorbar([x], [interval.value], yerr=error, **style)
    else:
        axes.errorbar([interval.value], [x], xerr=error, **style)


def style_of(line: Line) -> dict[str, Any]:
    """A method's colour; hollow for single-task models, grey for references."""
    shade = "#888888" if line.reference else colour(method_of(line))
    hollow = "single task" in line.label
    return {"color": shade, "mfc": "white" if hollow else shade, "marker": "|" if line.reference else "o"}


# Main comparison


def table(study: Study, columns: Sequence[Column] | None = None) -> None:
    """Methods x tasks with intervals; best, and what is not significantly worse, marked. columns: all if not given."""
    if not study.runs:
        say("No results, so there is no table.")
        return
    made = summarise(study.results)
    body = html_body(made if columns is None else only(made, [c for c in columns if c in made.columns]))
    display(HTML(f'<style>{STYLE}</style><div style="overflow-x:auto">{body}</div>'))


def forest(study: Study, columns: Sequence[Column] | None = None, name: str = "comparison") -> None:
    """One panel per metric: every line's value and interval. A star is the best, a hollow star is not surely worse."""
    made = summarise(study.results)
    chosen = [c for c in (columns if columns is not None else study.headlines) if c in made.columns]
    if not chosen or not study.complete:
        say("No complete run, so there is no comparison to draw.")
        return
    per_row = min(4, len(chosen))
    rows = -(-len(chosen) // per_row)
    figure, panels = grid(rows, per_row, 2.6, 0.6 + 0.24 * len(made.lines))
    for k, (axes, column) in enumerate(zip(panels.flat, chosen, strict=False)):
        i = made.columns.index(column)
        for y, line in enumerate(made.lines):
            draw_line(axes, y, line, line.cells[i])
        axes.set_title(title(column))
        axes.set_ylim(len(made.lines) - 0.5, -0.5)
        axes.set_yticks(range(len(made.lines)))
        axes.set_yticklabels([line.label for line in made.lines] if k % per_row == 0 else [])
    for axes in panels.flat[len(chosen) :]:
        axes.remove()
    figure.legend(handles=marks(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    show(figure, name, "Values with 95 % intervals of every method and reference, a panel for each metric")


def draw_line(axes: Axes, y: int, line: Line, cell: Cell) -> None:
    if cell.interval is None:
        return
    point(axes, y, cell.interval, False, **style_of(line))
    if cell.best or cell.tied:
        place: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False}
        axes.plot([1.02], [y], marker="*", ms=7, color="#222", mfc="#222" if cell.best else "white", **place)


def marks() -> list[Line2D]:
    star: dict[str, Any] = {"marker": "*", "ls": "", "color": "#222", "ms": 8}
    return [
        Line2D([], [], **star, label="best"),
        Line2D([], [], **star, mfc="white", label="not significantly worse than the best (5 %)"),
        Line2D([], [], marker="|", ls="", color="#888888", label="reference, not trained for the task"),
    ]


def further(study: Study) -> None:
    """As `forest`, for every metric that is not the first of its task."""
    others = [column for column in study.columns if column not in study.headlines]
    if others:
        forest(study, others, "comparison_further")
    else:
        say("The tasks have no further metrics.")


# Cost and quality

COSTS = {
    "total_for_all_tasks": "parameters to serve all tasks",
    "trainable": "parameters trained in one run",
    "flops": "FLOPs of one call",
    "latency_ms": "latency of one call, ms",
}


def frontier(study: Study) -> None:
    """Cost against quality, a row for each cost and a column for each task; the line joins what nothing dominates."""
    made = summarise(study.results)
    columns = [c for c in study.headlines if c in made.columns]
    if not columns or not study.complete:
        say("No complete run, so there is no frontier to draw.")
        return
    lines = [line for line in made.lines if not line.reference]
    figure, panels = grid(len(COSTS), len(columns), 2.5, 2.1)
    for row, (key, name) in zip(panels, COSTS.items(), strict=True):
        for axes, column in zip(row, columns, strict=True):
            draw_frontier(axes, made.columns.index(column), column, lines, key)
            axes.set_xlabel(name)
            if key == next(iter(COSTS)):
                axes.set_title(title(column))
    handles = [Line2D([], [], ls="", ms=5, **style_of(line), label=line.label) for line in lines]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    show(figure, "frontier", "Quality of every method against its costs, with the frontier of what nothing dominates")


def draw_frontier(axes: Axes, i: int, column: Column, lines: Sequence[Line], key: str) -> None:
    known = [(getattr(line.cost, key), line.cells[i].interval, line) for line in lines]
    points = [(cost, interval, line) for cost, interval, line in known if cost is not None and interval is not None]
    if not points:
        blank(axes, "not measured")
        return
    for cost, interval, line in points:
        point(axes, cost, interval, True, **style_of(line))
    sign = 1 if column.direction == "higher" else -1
    best = undominated([(cost, sign * interval.value) for cost, interval, _ in points])
    costs, qualities = [x for x, _ in best], [sign * y for _, y in best]
    axes.plot(costs, qualities, color="#bbbbbb", lw=1, zorder=0, drawstyle="steps-post")
    if key != "latency_ms":
        axes.xaxis.set_major_formatter(lambda x, _: large(x))
    axes.tick_params(axis="x", labelrotation=30)


def undominated(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """By rising cost, the points that are better than all cheaper ones."""
    kept: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or quality > kept[-1][1]:
            kept.append((cost, quality))
    return kept


# Variants of one method


def by_number(study: Study, method: str, option: str, label: str) -> None:
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
    figure, panels = grid(1, len(columns), 2.5, 2.4)
    for axes, column in zip(panels[0], columns, strict=True):
        for x, value in enumerate(sorted(found)):
            cell = over_seeds(rows_by_seed(found[value], column))
            if cell is not None:
                point(axes, x, cell, True, color=colour(method))
        axes.set_xticks(range(len(found)), [f"{value:g}" for value in sorted(found)])
        axes.set_xlim(-0.5, len(found) - 0.5)
        axes.set_title(title(column))
        axes.set_xlabel(label)
    show(figure, f"{method}_{label.replace(' ', '_')}", f"{method} over the {label}, with 95 % intervals")


def over_seeds(rows: Mapping[int, Any]) -> Interval | None:
    """The mean over seeds, or the one run's own interval."""
    if len(rows) == 1:
        (row,) = rows.values()
        return Interval(row.value, row.low, row.high)
    return seed_interval([row.value for row in rows.values()]) if rows else None


def variants(study: Study, method: str) -> None:
    """Every variant of a method on all tasks, as a table of each task's first metric and of LPIPS."""
    part = study.select(r for r in study.runs if r.result.method == method and len(r.result.tasks) == len(study.tasks))
    if len({repr(sorted(options(run.result).items())) for run in part.complete}) < 2:
        say(f"The results hold no further variant of {method}.")
        return
    table(part, [c for c in part.columns if c in part.headlines or c.metric.startswith("lpips")])


# Routers


def order(site: str) -> tuple[int, str]:
    """Blocks in the order of a UNet's forward pass."""
    return next((i for i, part in enumerate(("down", "mid", "up")) if site.startswith(part)), 0), site


def short(site: str) -> str:
    """`up_blocks.1.attentions.0.transformer_blocks.0.ff` -> `up 1.0.0`."""
    words = site.removesuffix(".ff").split(".")
    head = words[0].replace("_blocks", "").replace("_block", "")
    return f"{head} {'.'.join(word for word in words[1:] if word.isdecimal())}"


def told(study: Study, key: str) -> list[Run]:
    """Complete runs whose `method_report` holds something."""
    return [run for run in study.complete if run.result.method_report.get(key)]


def routers(study: Study) -> None:
    """The weights of the experts of every block, a panel per task, mean over the seeds of the central variant."""
    part = select_main(study)
    runs = [r for r in told(part, "router") if len(r.result.tasks) == len(study.tasks)]
    if not runs:
        say("No result carries router weights (a run of MTU on all tasks writes them into `method_report`).")
        return
    tasks, sites = runs[0].result.tasks, sorted(runs[0].result.method_report["router"], key=order)
    every = np.array([[[r.result.method_report["router"][s][t] for s in sites] for t in tasks] for r in runs])
    weights = every.mean(0)  # (tasks, blocks, experts)
    even = 1 / weights.shape[2]
    limit = max(1e-3, np.abs(weights - even).max())
    norm = TwoSlopeNorm(even, even - limit, even + limit)
    figure, panels = grid(1, len(tasks), 1.9, 0.8 + 0.22 * len(sites))
    for axes, task, shown in zip(panels[0], tasks, weights, strict=True):
        image = axes.imshow(shown, norm=norm, cmap="PuOr_r", aspect="auto")
        axes.set_title(task)
        axes.set_xticks(range(shown.shape[1]), [str(i + 1) for i in range(shown.shape[1])])
        axes.set_xlabel("expert")
        axes.set_yticks(range(len(sites)), [short(s) for s in sites] if task == tasks[0] else [])
        axes.grid(False)
    figure.colorbar(image, ax=panels, label="weight")
    show(figure, "routers", "Weights of the experts by block and task")
    say(
        f"Mean of {len(runs)} seed(s); even weights are {even:.3g}. Expert i starts as the i-th slice of the layer, "
        "so experts mean the same in each."
    )
    specialised(sites, every)


def specialised(sites: Sequence[str], weights: np.ndarray) -> None:
    """How far tasks part in every block. weights (seeds, tasks, blocks, experts)."""
    distance = np.abs(weights - weights.mean(1, keepdims=True)).sum(3).mean(1) / 2  # (seeds, blocks)
    figure, panels = grid(1, 1, 6.5, 2.4)
    axes = panels[0, 0]
    for k, of_seed in enumerate(distance):
        label = "a seed" if k == 0 else None
        axes.plot(range(len(sites)), of_seed, "o", ms=4, color=colour("mtu"), alpha=0.6, label=label)
    axes.plot(range(len(sites)), distance.mean(0), color=colour("mtu"), lw=1.2, label="mean")
    axes.set_xticks(range(len(sites)), [short(s) for s in sites], rotation=45, ha="right")
    axes.set_ylabel("share of the weight\nthat depends on the task")
    axes.set_ylim(0, 1.15 * max(1e-3, float(distance.max())))
    axes.legend(frameon=False, fontsize=8)
    show(figure, "router_specialisation", "Distance of the tasks' router weights from their mean, by block")


# Weight deviation


def moved(run: Run) -> dict[str, Any] | None:
    found = run.result.method_report.get("deviation") or {}
    return found if found.get("tasks") else None


def group(run: Run, study: Study) -> str:
    """The method; its single-task models are a group of their own."""
    return run.result.method + (" (single task)" if len(run.result.tasks) < len(study.tasks) else "")


def deviation(study: Study) -> None:
    """||W - W0|| / ||W0|| by component, of every method and single-task model; tasks averaged, seeds as a range."""
    part = select_main(study)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in part.complete:
        if moved(run) is not None:
            groups[group(run, study)].append(run)
    reasons = {(run.result.method_report.get("deviation") or {}).get("reason") for run in part.complete} - {None}
    for reason in sorted(map(str, reasons)):
        say(f"Not measured: {reason}.")
    if not groups:
        say("No result carries weight deviations (runs write them into `method_report`).")
        return
    first = next(iter(groups.values()))[0].result.method_report["deviation"]["tasks"]
    names = [name for name in next(iter(first.values())) if name != "other"] + ["other"]
    figure, panels = grid(1, 1, 8.5, 3.4)
    axes = panels[0, 0]
    width = 0.8 / len(groups)
    for k, (label, runs) in enumerate(groups.items()):
        values = np.array([[of_component(run, name) for name in names] for run in runs])  # (seeds, components)
        x = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * width
        hollow = "(" in label
        axes.bar(
            x,
            values.mean(0),
            width,
            color="white" if hollow else colour(label.split(" (")[0]),
            edgecolor=colour(label.split(" (")[0]),
            label=label,
            lw=0.8,
        )
        axes.vlines(x, values.min(0), values.max(0), color="#222", lw=0.8)
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=20, ha="right")
    axes.set_ylabel("||W - W0|| / ||W0||")
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=4)
    show(figure, "deviation", "How far training moves each component's weights, by method")
    say("Bars: mean over tasks and runs; lines: the range of the runs. No bar: the component stays as it was.")


def of_component(run: Run, name: str) -> float:
    found = moved(run) or {"tasks": {}}
    values = [parts[name] for parts in found["tasks"].values() if parts.get(name) is not None]
    return float(np.mean(values)) if values else float("nan")


def by_depth(study: Study) -> None:
    """Attention and feed-forward layers of every block, a panel for each method on all tasks, mean over seeds."""
    runs = [r for r in select_main(study).complete if (moved(r) or {}).get("blocks")]
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[group(run, study)].append(run)
    if not groups:
        say("No result carries weight deviations by block.")
        return
    per_row = min(3, len(groups))
    figure, panels = grid(-(-len(groups) // per_row), per_row, 3.1, 2.5)
    shades = {"self_attention": "#56b4e9", "cross_attention": "#009e73", "ffn": "#d55e00"}
    for k, (axes, (label, part)) in enumerate(zip(panels.flat, groups.items(), strict=False)):
        blocks = sorted(part[0].result.method_report["deviation"]["blocks"], key=order)
        for name, shade in shades.items():
            curves = [[(b.get(name) if b else None) for b in at(run, blocks)] for run in part]
            values = np.array(curves, float)  # None -> nan
            axes.plot(range(len(blocks)), values.mean(0), "o-", ms=3, lw=1, color=shade, label=name.replace("_", " "))
            if len(part) > 1:
                axes.fill_between(range(len(blocks)), values.min(0), values.max(0), color=shade, alpha=0.2, lw=0)
        axes.set_title(label)
        axes.set_xticks(range(len(blocks)), [short(b) for b in blocks], rotation=60, ha="right", fontsize=7)
        axes.set_ylim(bottom=0)
        if k % per_row == 0:
            axes.set_ylabel("||W - W0|| / ||W0||")
    for axes in panels.flat[len(groups) :]:
        axes.remove()
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    show(figure, "deviation_by_depth", "Weight deviation of attention and feed-forward layers by block and method")


def at(run: Run, blocks: Sequence[str]) -> list[dict[str, Any]]:
    return [run.result.method_report["deviation"]["blocks"].get(block, {}) for block in blocks]


# Interference between tasks


def gains(study: Study) -> None:
    """Every method on all tasks together against single-task models: who starves, who gains."""
    against = yardstick(study)
    if against is None:
        say("The results hold no single-task model, so there is nothing to hold the others against.")
        return
    every = [change for method in methods(study) for change in list_changes(study, method, against)]
    found = [change for change in every if len(change.tasks) == len(study.tasks)]
    draw_changes(found, "gains", lambda c: c.method, f"change against {against} on the task alone")


def company(study: Study) -> None:
    """Methods on subsets of the tasks, each against itself on every task alone."""
    found = {method: list_changes(study, method, method) for method in methods(study)}
    without = [method for method, part in found.items() if not any(change.interval for change in part)]
    for method in found:
        if method not in without:
            draw_company(found[method], method, study.tasks)
    if without or not found:
        say(f"No results of single tasks and of several to compare: {', '.join(without) or 'no method'}.")


def draw_company(found: Sequence[Change], method: str, tasks: Sequence[str]) -> None:

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
    figure, panels = grid(1, len(columns), 2.8, 0.9 + 0.26 * max(sum(c.column == k for c in known) for k in columns))
    for axes, column in zip(panels[0], columns, strict=True):
        part = [change for change in known if change.column == column]
        for y, change in enumerate(part):
            assert change.interval is not None
            i, shade = change.interval, colour(change.method)
            sure = i.low is not None and i.high is not None and (i.low > 0 or i.high < 0)
            point(axes, y, i, False, color=shade, mfc=shade if sure else "white")
        axes.axvline(0, color="#222", lw=0.8)
        axes.set_yticks(range(len(part)), [label(change) for change in part], fontsize=8)
        axes.set_ylim(len(part) - 0.5, -0.5)
        axes.set_title(title(column))
        axes.set_xlabel("worse   |   better", fontsize=8)
    figure.suptitle(axis, fontsize=9)
    show(figure, name, f"{axis}, with 95 % intervals, a panel for each task")
    pairs = sorted({change.seeds for change in known})
    say(
        "In the metric's own unit; right of zero is better than alone. Filled: the 95 % interval leaves out zero "
        "(paired over examples and seeds where scores are there, else over seeds). "
        f"Pairs of runs: {', '.join(map(str, pairs))}."
    )


def cosines(study: Study) -> None:
    """Cosines between the tasks' gradients, where PCGrad measured them: mean over training and seeds, and over time."""
    runs = told(study, "cosines")
    if not runs:
        say("No result carries cosines between gradients (runs with balancing=pcgrad write them into `method_report`).")
        return
    for method in dict.fromkeys(run.result.method for run in runs):
        draw_cosines(method, [run for run in runs if run.result.method == method], study.tasks)


def draw_cosines(method: str, runs: Sequence[Run], tasks: Sequence[str]) -> None:
    means = np.full((len(tasks), len(tasks)), np.nan)
    figure, panels = grid(1, 2, 4.2, 3.2)
    pairs = list(dict.fromkeys(pair for run in runs for pair in run.result.method_report["cosines"]))
    for k, pair in enumerate(pairs):
        one, other = (tasks.index(task) for task in pair.split("/"))
        found = [run.result.method_report["cosines"].get(pair, {}).get("mean") for run in runs]
        values = [value for value in found if value is not None]
        if values:
            means[one, other] = means[other, one] = np.mean(values)
        curves = [run.result.method_report["curves"].get(f"train/cosine/{pair}") for run in runs]
        kept = [c for c in curves if c and len(c["steps"]) == len((curves[0] or c)["steps"]) and c["steps"]]
        if kept:
            shade = mpl.colormaps["tab10"](k % 10)
            panels[0, 1].plot(
                kept[0]["steps"],
                np.array([c["values"] for c in kept], float).mean(0),
                color=shade,
                lw=1,
                marker=".",
                label=pair.replace("/", " / "),
            )
    axes, limit = panels[0, 0], max(0.05, float(np.nanmax(np.abs(means), initial=0)))
    axes.imshow(means, cmap="PuOr", vmin=-limit, vmax=limit)
    for (i, j), value in np.ndenumerate(means):
        ink = "white" if abs(value) > 0.6 * limit else "#222"
        axes.text(j, i, "" if np.isnan(value) else f"{value:.3f}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(tasks)), tasks, rotation=30, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)
    axes.grid(False)
    axes.set_title(f"{method}: mean cosine, {len(runs)} run(s)")
    panels[0, 1].axhline(0, color="#222", lw=0.8)
    panels[0, 1].set_xlabel("training step")
    panels[0, 1].set_ylabel("cosine between gradients")
    panels[0, 1].legend(frameon=False, fontsize=7)
    show(figure, f"cosines_{method}", "Cosines between the gradients of tasks, as a matrix and over training")


def losses(study: Study) -> None:
    """Validation losses of every task over training, each method's central variant on all tasks, mean over seeds."""
    part = select_main(study)
    runs = [r for r in told(part, "curves") if len(r.result.tasks) == len(study.tasks)]
    runs = [r for r in runs if any(name.startswith("validation/") for name in r.result.method_report["curves"])]
    if not runs:
        say("No result carries validation losses (runs with training.validate_every=N write them).")
        return
    figure, panels = grid(1, len(study.tasks), 2.5, 2.4)
    for axes, task in zip(panels[0], study.tasks, strict=True):
        for method in dict.fromkeys(run.result.method for run in runs):
            own = [run.result.method_report["curves"] for run in runs if run.result.method == method]
            kept = [c for c in (curves.get(f"validation/loss/{task}") for curves in own) if c and c["steps"]]
            kept = [c for c in kept if c["steps"] == kept[0]["steps"]]
            if kept:
                mean = np.array([c["values"] for c in kept], float).mean(0)
                axes.plot(kept[0]["steps"], mean, "o-", ms=3, lw=1, color=colour(method), label=method)
        axes.set_title(f"{task}\nvalidation loss ↓")
        axes.set_xlabel("training step")
    shown = dict.fromkeys(str(line.get_label()) for axes in panels.flat for line in axes.get_lines())
    handles = [Line2D([], [], marker="o", ms=3, lw=1, color=colour(name), label=name) for name in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    show(figure, "losses", "Validation loss of every task over training")


def balancings(study: Study) -> None:
    """Every loss balancing under every method that was run with more than one."""
    found = False
    for method in methods(study):
        part = select_ablation(study, method, "balancing")
        if len({repr(sorted(options(run.result).items())) for run in part.complete}) > 1:
            found = True
            forest(part, name=f"balancing_{method}")
    if not found:
        say("The results hold one loss balancing alone.")


# Pictures

GAP = 2  # between the pictures of a grid, and around it


def read_strips(run: Run, task: str) -> list[np.ndarray] | None:
    """Source, answers and truth (H, W, 3) of a run's grid; None where it has none. One that cannot be read is said."""
    try:
        path = run.picture(task) if task in run.result.tasks else None
        return None if path is None else split_grid(np.array(read_grid(path)))
    except ValueError as error:
        say(f"{task}: {run.label} is left out: {error}")
        return None


def split_grid(pixels: np.ndarray) -> list[np.ndarray]:
    """The three rows of a grid (3 * side + GAP, W, 3)."""
    side = (len(pixels) - GAP) // 3
    if side <= GAP or pixels.shape[1] <= GAP:
        raise ValueError(f"its picture of {pixels.shape[1]} x {pixels.shape[0]} pixels is no grid of three rows")
    for column in range(0, pixels.shape[1], side):
        pixels[:, column : column + GAP] = 255
    return [pixels[GAP + k * side : (k + 1) * side, GAP:] for k in range(3)]


def pictures(study: Study, tolerance: float = 12.0) -> None:
    """Every method's answers to the same test examples, one seed; truths that differ by more are of other examples."""
    part = select_main(study)
    shown = 0
    for task in study.tasks:
        lines: dict[str, tuple[Run, list[np.ndarray]]] = {}
        for run in sorted(part.complete, key=lambda run: run.result.seed):
            single = len(run.result.tasks) == 1 and len(study.tasks) > 1
            strips = read_strips(run, task)
            if strips is not None:
                lines.setdefault(run.result.method + (" (single task)" if single else ""), (run, strips))
        if lines:
            shown += 1
            draw_pictures(task, lines, tolerance)
        else:
            say(f"{task}: no result has pictures beside it.")
    if not shown:
        say("No pictures to show.")


def draw_pictures(task: str, lines: Mapping[str, tuple[Run, Sequence[np.ndarray]]], tolerance: float) -> None:
    source, _, truth = next(iter(lines.values()))[1]
    strips = {} if source.std() < 2 else {"source": source}  # plain grey: the task has none
    for label, (_, (_, answers, own)) in lines.items():
        if own.shape != truth.shape or np.abs(own.astype(float) - truth).mean() > tolerance:
            say(f"{task}: {label} is left out, its pictures are of other examples.")
        else:
            strips[label] = answers
    strips["truth"] = truth
    height = 7.5 * truth.shape[0] / truth.shape[1]
    figure, panels = grid(len(strips), 1, 8.5, height + 0.05)
    for axes, (label, strip) in zip(panels[:, 0], strips.items(), strict=True):
        axes.imshow(strip, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label.replace(" (", "\n("), rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(task, fontsize=9)
    seeds = sorted({run.result.seed for run, _ in lines.values()})
    show(figure, f"pictures_{task}", f"{task}: {', '.join(strips)}, the same examples in each row")
    say(f"The first test examples, not chosen; seed {', '.join(map(str, seeds))}.")
