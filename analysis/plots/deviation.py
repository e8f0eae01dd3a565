"""How far training moves the weights of the base."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from mtdiff.results.study import Run, Study
from mtdiff.results.variants import select_main

from .blocks import order_block, shorten_site
from .canvas import colour_method, make_panels, say, show_figure


def read_deviation(run: Run) -> dict[str, Any] | None:
    found = run.result.method_report.get("deviation") or {}
    return found if found.get("tasks") else None


def name_group(run: Run, study: Study) -> str:
    """The method; its single-task models are a group of their own."""
    return run.result.method + (" (single task)" if len(run.result.tasks) < len(study.tasks) else "")


def draw_deviation(study: Study) -> None:
    """||W - W0|| / ||W0|| by component, of every method and single-task model; tasks averaged, seeds as a range."""
    part = select_main(study)
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in part.complete:
        if read_deviation(run) is not None:
            groups[name_group(run, study)].append(run)
    reasons = {(run.result.method_report.get("deviation") or {}).get("reason") for run in part.complete} - {None}
    for reason in sorted(map(str, reasons)):
        say(f"Not measured: {reason}.")
    if not groups:
        say("No result carries weight deviations (runs write them into `method_report`).")
        return
    first = next(iter(groups.values()))[0].result.method_report["deviation"]["tasks"]
    names = [name for name in next(iter(first.values())) if name != "other"] + ["other"]
    figure, panels = make_panels(1, 1, 8.5, 3.4)
    axes = panels[0, 0]
    width = 0.8 / len(groups)
    for k, (label, runs) in enumerate(groups.items()):
        values = np.array([[read_component(run, name) for name in names] for run in runs])  # (seeds, components)
        x = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * width
        hollow = "(" in label
        axes.bar(
            x,
            values.mean(0),
            width,
            color="white" if hollow else colour_method(label.split(" (")[0]),
            edgecolor=colour_method(label.split(" (")[0]),
            label=label,
            lw=0.8,
        )
        axes.vlines(x, values.min(0), values.max(0), color="#222", lw=0.8)
    axes.set_xticks(range(len(names)), [name.replace("_", " ") for name in names], rotation=20, ha="right")
    axes.set_ylabel("||W - W0|| / ||W0||")
    figure.legend(loc="outside lower center", frameon=False, fontsize=8, ncols=4)
    show_figure(figure, "deviation", "How far training moves each component's weights, by method")
    say("Bars: mean over tasks and runs; lines: the range of the runs. No bar: the component stays as it was.")


def read_component(run: Run, name: str) -> float:
    found = read_deviation(run) or {"tasks": {}}
    values = [parts[name] for parts in found["tasks"].values() if parts.get(name) is not None]
    return float(np.mean(values)) if values else float("nan")


def draw_deviation_by_depth(study: Study) -> None:
    """Attention and feed-forward layers of every block, a panel for each method on all tasks, mean over seeds."""
    runs = [r for r in select_main(study).complete if (read_deviation(r) or {}).get("blocks")]
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[name_group(run, study)].append(run)
    if not groups:
        say("No result carries weight deviations by block.")
        return
    per_row = min(3, len(groups))
    figure, panels = make_panels(-(-len(groups) // per_row), per_row, 3.1, 2.5)
    shades = {"self_attention": "#56b4e9", "cross_attention": "#009e73", "ffn": "#d55e00"}
    for k, (axes, (label, part)) in enumerate(zip(panels.flat, groups.items(), strict=False)):
        blocks = sorted(part[0].result.method_report["deviation"]["blocks"], key=order_block)
        for name, shade in shades.items():
            curves = [[(b.get(name) if b else None) for b in read_blocks(run, blocks)] for run in part]
            values = np.array(curves, float)  # None -> nan
            axes.plot(range(len(blocks)), values.mean(0), "o-", ms=3, lw=1, color=shade, label=name.replace("_", " "))
            if len(part) > 1:
                axes.fill_between(range(len(blocks)), values.min(0), values.max(0), color=shade, alpha=0.2, lw=0)
        axes.set_title(label)
        axes.set_xticks(range(len(blocks)), [shorten_site(b) for b in blocks], rotation=60, ha="right", fontsize=7)
        axes.set_ylim(bottom=0)
        if k % per_row == 0:
            axes.set_ylabel("||W - W0|| / ||W0||")
    for axes in panels.flat[len(groups) :]:
        axes.remove()
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    show_figure(figure, "deviation_by_depth", "Weight deviation of attention and feed-forward layers by block")


def read_blocks(run: Run, blocks: Sequence[str]) -> list[dict[str, Any]]:
    return [run.result.method_report["deviation"]["blocks"].get(block, {}) for block in blocks]
