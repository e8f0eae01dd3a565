"""Several modalities jointly (MT-Diffusion): four settings, with and without a phase on a single task.

-U and -X restore a masked picture, which the network sees in the noisy latent alone (U) or as a source too (X); -M and
-E tell a label, by a layer on the middle (M) or a classifier on the output (E). The runs of X are those of M.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from mtdiff.results.protocol import every_option
from mtdiff.results.questions.tables import (
    Groups,
    add_published,
    build_table,
    find_columns,
    list_table_lines,
)
from mtdiff.results.record import Result
from mtdiff.results.table import Column, Table

MASKED, LABEL = "joint_masked", "joint_label"
SHARES = (5, 10, 15, 20)
LEVELS = (80, 60, 40, 20)
SETTINGS = {"-U": (MASKED, "U", "M"), "-X": (MASKED, "X", "M"), "-M": (LABEL, "X", "M"), "-E": (LABEL, "X", "E")}
"""By name: the task that it is about, what the network sees of the picture, and where the label's head is."""
PUBLISHED = {5: 0.035, 10: 0.068, 15: 0.099, 20: 0.133}
"""LPIPS of restoration by masked share, of -X on ImageNet at 64 px (arXiv 2407.17571)."""
REFERENCES = ("copy", "biharmonic", "autoencoder", "base")


def select_joint(results: Sequence[Result], task: str, picture: str, label: str) -> Groups:
    """Complete runs of a setting: joint, gone on with its task alone, and trained on that task from the start."""
    told = [(run, every_option(run)) for run in results if run.status == "complete" and task in run.tasks]
    wanted = {"method.picture": picture, "method.label": label}
    own = [(run, o) for run, o in told if run.method == "joint" and all(o.get(k) == v for k, v in wanted.items())]
    return {
        "joint": [run for run, o in own if len(run.tasks) > 1],
        "joint, then alone": [run for run, o in own if len(run.tasks) == 1 and o.get("init_from") is not None],
        "alone": [run for run, o in own if len(run.tasks) == 1 and o.get("init_from") is None],
    }


def group_settings(results: Sequence[Result], task: str) -> Groups:
    """Every setting that is about a task, in each of its phases, then methods that know no modalities."""
    groups: dict[str, Any] = {}
    for name, (about, picture, label) in SETTINGS.items():
        if about == task:
            groups |= {f"{name} {phase}": runs for phase, runs in select_joint(results, task, picture, label).items()}
    for method in ("mtu", "finetune"):
        plain = [r for r in results if (r.method, r.tasks, r.status) == (method, [task], "complete")]
        groups[f"{method} alone"] = plain
    return {name: runs for name, runs in groups.items() if runs}


def list_share_columns(results: Sequence[Result]) -> dict[int, Column]:
    """LPIPS of restoration by masked share, in percent."""
    found = {share: find_columns(results, MASKED, [f"lpips_alex_masked_{share}"]) for share in SHARES}
    return {share: columns[0] for share, columns in found.items() if columns}


def list_level_columns(results: Sequence[Result]) -> dict[int, Column]:
    """Label accuracy by time, in percent of all times; 0 is the end of the drawing."""
    found = {level: find_columns(results, LABEL, [f"label_accuracy_at_{level}"]) for level in LEVELS}
    found[0] = find_columns(results, LABEL, ["label_accuracy"])
    return {level: columns[0] for level, columns in found.items() if columns}


def summarise_restoration(results: Sequence[Result]) -> Table:
    """Restorations of every setting beside references, and the paper's line."""
    groups, shares = group_settings(results, MASKED), list_share_columns(results)
    columns = [*find_columns(results, MASKED, ["lpips_alex", "psnr"]), *shares.values()]
    table = build_table(groups, list(dict.fromkeys(columns)), REFERENCES)
    published = {column: PUBLISHED[share] for share, column in shares.items()}
    return add_published(table, "published: -X, ImageNet 64 px", published) if groups else table


def summarise_labels(results: Sequence[Result]) -> Table:
    """Labels that every setting tells of true pictures, and pictures that it draws from a label."""
    columns = [*list_level_columns(results).values(), *find_columns(results, LABEL, ["fd_", "kid_", "clip_score"])]
    return build_table(group_settings(results, LABEL), columns, ("base", "autoencoder"))


def list_joint_lines(results: Sequence[Result]) -> Iterator[str]:
    """Both tables, of what has runs."""
    for name, summarise in (("restoration", summarise_restoration), ("labels", summarise_labels)):
        table = summarise(results)
        if table.lines:
            yield from list_table_lines(table, name)
