"""What runs measured while they trained: cosines between gradients, and validation losses."""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.lines import Line2D

from mtdiff.results.study import Run, Study
from mtdiff.results.variants import select_main

from .blocks import order_block, select_reporting, shorten_layer
from .canvas import colour_method, make_panels, say, show_figure


def draw_cosines(study: Study) -> None:
    """Cosines between the tasks' gradients, where PCGrad measured them: mean over training and seeds, and over time."""
    runs = select_reporting(study, "cosines")
    if not runs:
        say("No result carries cosines between gradients (runs with balancing=pcgrad write them into `method_report`).")
        return
    for method in dict.fromkeys(run.result.method for run in runs):
        draw_method_cosines(method, [run for run in runs if run.result.method == method], study.tasks)


def draw_method_cosines(method: str, runs: Sequence[Run], tasks: Sequence[str]) -> None:
    means = np.full((len(tasks), len(tasks)), np.nan)
    figure, panels = make_panels(1, 2, 4.2, 3.2)
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
    show_figure(figure, f"cosines_{method}", "Cosines between the gradients of tasks, as a matrix and over training")


def draw_layer_cosines(study: Study) -> None:
    """The mean cosine between two tasks' gradients by each layer; below zero tasks conflict there. A point a run."""
    runs = select_reporting(study, "layer_cosines")
    if not runs:
        say("No result carries cosines by layer (runs with balancing=pcgrad write them into `method_report`).")
        return
    methods = list(dict.fromkeys(run.result.method for run in runs))
    names = sorted({name for run in runs for name in run.result.method_report["layer_cosines"]}, key=order_block)
    figure, panels = make_panels(1, 1, 0.18 * len(names) + 4, 3.2)
    axes = panels[0, 0]
    for method in methods:
        own = [run.result.method_report["layer_cosines"] for run in runs if run.result.method == method]
        points = [(k, row[name]["mean"]) for row in own for k, name in enumerate(names) if name in row]
        known = [(k, value) for k, value in points if value is not None]
        if known:
            axes.plot(*zip(*known, strict=True), "o", ms=4, alpha=0.6, color=colour_method(method), label=method)
    axes.axhline(0, color="#222", lw=0.8)
    axes.set_xticks(range(len(names)), [shorten_layer(name) for name in names], rotation=90, fontsize=7)
    axes.set_ylabel("mean cosine between tasks")
    axes.legend(frameon=False, fontsize=8)
    show_figure(figure, "cosines_by_layer", "Mean cosine between the gradients of tasks by layer, a point a run")


def draw_losses(study: Study) -> None:
    """Validation losses of every task over training, each method's central variant on all tasks, mean over seeds."""
    part = select_main(study)
    runs = [r for r in select_reporting(part, "curves") if len(r.result.tasks) == len(study.tasks)]
    runs = [r for r in runs if any(name.startswith("validation/") for name in r.result.method_report["curves"])]
    if not runs:
        say("No result carries validation losses (runs with training.validate_every=N write them).")
        return
    figure, panels = make_panels(1, len(study.tasks), 2.5, 2.4)
    for axes, task in zip(panels[0], study.tasks, strict=True):
        for method in dict.fromkeys(run.result.method for run in runs):
            own = [run.result.method_report["curves"] for run in runs if run.result.method == method]
            kept = [c for c in (curves.get(f"validation/loss/{task}") for curves in own) if c and c["steps"]]
            kept = [c for c in kept if c["steps"] == kept[0]["steps"]]
            if kept:
                mean = np.array([c["values"] for c in kept], float).mean(0)
                axes.plot(kept[0]["steps"], mean, "o-", ms=3, lw=1, color=colour_method(method), label=method)
        axes.set_title(f"{task}\nvalidation loss ↓")
        axes.set_xlabel("training step")
    shown = dict.fromkeys(str(line.get_label()) for axes in panels.flat for line in axes.get_lines())
    handles = [Line2D([], [], marker="o", ms=3, lw=1, color=colour_method(name), label=name) for name in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    show_figure(figure, "losses", "Validation loss of every task over training")
