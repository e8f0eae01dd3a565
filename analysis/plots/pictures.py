"""Answers of every method to the same test examples."""

from collections.abc import Mapping, Sequence

import numpy as np

from mtdiff.results.samples import read_grid
from mtdiff.results.study import Run, Study
from mtdiff.results.variants import select_main

from .canvas import make_panels, say, show_figure

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


def draw_pictures(study: Study, tolerance: float = 12.0) -> None:
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
            draw_task_pictures(task, lines, tolerance)
        else:
            say(f"{task}: no result has pictures beside it.")
    if not shown:
        say("No pictures to show.")


def draw_task_pictures(task: str, lines: Mapping[str, tuple[Run, Sequence[np.ndarray]]], tolerance: float) -> None:
    source, _, truth = next(iter(lines.values()))[1]
    strips = {} if source.std() < 2 else {"source": source}  # plain grey: the task has none
    for label, (_, (_, answers, own)) in lines.items():
        if own.shape != truth.shape or np.abs(own.astype(float) - truth).mean() > tolerance:
            say(f"{task}: {label} is left out, its pictures are of other examples.")
        else:
            strips[label] = answers
    strips["truth"] = truth
    height = 7.5 * truth.shape[0] / truth.shape[1]
    figure, panels = make_panels(len(strips), 1, 8.5, height + 0.05)
    for axes, (label, strip) in zip(panels[:, 0], strips.items(), strict=True):
        axes.imshow(strip, interpolation="nearest")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.set_ylabel(label.replace(" (", "\n("), rotation=0, ha="right", va="center", fontsize=8)
    figure.suptitle(task, fontsize=9)
    seeds = sorted({run.result.seed for run, _ in lines.values()})
    show_figure(figure, f"pictures_{task}", f"{task}: {', '.join(strips)}, the same examples in each row")
    say(f"The first test examples, not chosen; seed {', '.join(map(str, seeds))}.")
