"""The weights that routers give to experts."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import TwoSlopeNorm

from mtdiff.results.study import Run, Study
from mtdiff.results.variants import select_main

from .blocks import order_block, select_reporting, shorten_site
from .canvas import colour_method, make_panels, say, show_figure


def draw_routers(study: Study) -> None:
    """The weights of the experts of every block, a panel per task, mean over the seeds of the central variant."""
    part = select_main(study)
    runs = [r for r in select_reporting(part, "router") if len(r.result.tasks) == len(study.tasks)]
    if not runs:
        say("No result carries router weights (a run of MTU on all tasks writes them into `method_report`).")
        return
    tasks, sites = runs[0].result.tasks, sorted(runs[0].result.method_report["router"], key=order_block)
    for run in [run for run in runs if count_experts(run) != count_experts(runs[0])]:
        say(f"Left out: {run.label}, whose routers are of other blocks, tasks or experts.")
        runs.remove(run)
    every = np.array([[[r.result.method_report["router"][s][t] for s in sites] for t in tasks] for r in runs])
    weights = every.mean(0)  # (tasks, blocks, experts)
    even = 1 / weights.shape[2]
    limit = max(1e-3, np.abs(weights - even).max())
    norm = TwoSlopeNorm(even, even - limit, even + limit)
    figure, panels = make_panels(1, len(tasks), 1.9, 0.8 + 0.22 * len(sites))
    for axes, task, shown in zip(panels[0], tasks, weights, strict=True):
        image = axes.imshow(shown, norm=norm, cmap="PuOr_r", aspect="auto")
        axes.set_title(task)
        axes.set_xticks(range(shown.shape[1]), [str(i + 1) for i in range(shown.shape[1])])
        axes.set_xlabel("expert")
        axes.set_yticks(range(len(sites)), [shorten_site(s) for s in sites] if task == tasks[0] else [])
        axes.grid(False)
    figure.colorbar(image, ax=panels, label="weight")
    show_figure(figure, "routers", "Weights of the experts by block and task")
    say(
        f"Mean of {len(runs)} seed(s); even weights are {even:.3g}. Expert i starts as the i-th slice of the layer, "
        "so experts mean the same in each."
    )
    draw_specialisation(sites, every)


def draw_specialisation(sites: Sequence[str], weights: np.ndarray) -> None:
    """How far tasks part in every block. weights (seeds, tasks, blocks, experts)."""
    distance = np.abs(weights - weights.mean(1, keepdims=True)).sum(3).mean(1) / 2  # (seeds, blocks)
    figure, panels = make_panels(1, 1, 6.5, 2.4)
    axes = panels[0, 0]
    for k, of_seed in enumerate(distance):
        label = "a seed" if k == 0 else None
        axes.plot(range(len(sites)), of_seed, "o", ms=4, color=colour_method("mtu"), alpha=0.6, label=label)
    axes.plot(range(len(sites)), distance.mean(0), color=colour_method("mtu"), lw=1.2, label="mean")
    axes.set_xticks(range(len(sites)), [shorten_site(s) for s in sites], rotation=45, ha="right")
    axes.set_ylabel("share of the weight\nthat depends on the task")
    axes.set_ylim(0, 1.15 * max(1e-3, float(distance.max())))
    axes.legend(frameon=False, fontsize=8)
    show_figure(figure, "router_specialisation", "Distance of the tasks' router weights from their mean, by block")


def count_experts(run: Run) -> dict[str, dict[str, int]]:
    """Number of experts by block and task."""
    return {
        site: {task: len(weights) for task, weights in row.items()}
        for site, row in run.result.method_report["router"].items()
    }
