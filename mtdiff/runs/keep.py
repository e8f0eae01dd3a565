"""What a run leaves in its folder beside `result.json`: adapter, report, pictures, `evaluation.csv`."""

import copy
import csv
import io
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from mtdiff.data.mixture import Mixture
from mtdiff.errors import RunError, one_line, reason
from mtdiff.files.writing import write_atomically
from mtdiff.model.denoiser import Denoiser
from mtdiff.provenance import hash_weights
from mtdiff.results.record import Result, Row
from mtdiff.runs.adapter import identity
from mtdiff.runs.experiment import Experiment
from mtdiff.runs.method_report import Origin, report_method, report_training
from mtdiff.training.callbacks import save_grid
from mtdiff.training.loggers import EVALUATION, cells, read_rows
from mtdiff.training.parallel import gather_tensor, is_first
from mtdiff.training.starvation import report_starvation
from mtdiff.types import Batch

log = logging.getLogger(__name__)
GRID_COLUMNS = 8
WALL_COLUMNS, WALL_PIXELS = 32, 4_000_000
"""Examples of a wall at most, and pixels of its picture: at 64 px it takes 400,000, from 512 px on a grid is enough."""


def save_adapter(run: Experiment, about: Mapping[str, Any]) -> dict[str, Tensor]:
    """`adapter.safetensors` and `adapter.json`: only what the method adds or changes, which is returned."""
    tensors = {k: gather_tensor(v).cpu().contiguous() for k, v in run.module.denoiser.adapter().items()}
    if not is_first():
        return tensors
    path = run.folder / "adapter.safetensors"
    try:
        write_atomically(path, save(tensors, metadata={"about": identity(about)}))
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({reason(error)})") from None
    hashes: dict[str, Any] = {"base": hash_base(run)}
    if beside := dict(run.module.denoiser.method.beside):
        hashes["beside"] = beside
    write_atomically(run.folder / "adapter.json", json.dumps({**about, **hashes}, indent=1) + "\n")
    return tensors


def hash_base(run: Experiment) -> str | None:
    """Which weights the base had, so that the adapter is not put on others; None where they cannot be read again."""
    try:
        return None if run.base is None else hash_weights(run.base().parameters())
    except (OSError, ValueError) as error:
        log.warning("the base cannot be read again, so the adapter does not name its weights: %s", one_line(error))
        return None


def build_report(run: Experiment, adapter: Mapping[str, Tensor]) -> dict[str, Any]:
    """`Result.method_report`. What goes wrong in making it costs the report, not the run."""
    if not is_first():
        return {}
    try:
        found = report_training(read_rows(run.folder / "metrics.csv"))
        if learned := run.module.balancing.weighting.report():
            found["balancing"] = learned
        if run.base is None:
            return found
        backbone = run.base()
        origin = Origin.of(backbone)
        trained = Denoiser(backbone, copy.deepcopy(run.module.denoiser.method), run.module.tasks)
        trained.load_adapter(adapter)
        return {**report_method(trained, origin), **found}
    except Exception as error:
        log.warning("no report of the method: %s", one_line(error))
        return {"reason": one_line(error)}


def report_tasks(run: Experiment, seen: int) -> dict[str, Any]:
    """`Result.starvation`, of a run that has seen so many examples."""
    mixed, unknown = run.data.train, [None] * len(run.data.tasks)
    examples = mixed.count_examples(seen) if isinstance(mixed, Mixture) else unknown
    return report_starvation(list(run.data.tasks), examples, read_rows(run.folder / "metrics.csv"))


def save_samples(run: Experiment, batch: Batch, answers: Tensor) -> None:
    """`samples/<task>.png`: source, answer and truth of the first test examples. `samples/wall/<task>.png`: of more of
    them, and their prompts in `samples/wall/<task>.json`."""
    columns = min(WALL_COLUMNS, WALL_PIXELS // (3 * answers.shape[-2] * answers.shape[-1]))
    for k, task in enumerate(run.data.tasks):
        part, samples = batch.task == k, run.folder / "samples"
        few, drawn = batch.rows(part), answers[part]
        save_first(samples / f"{task}.png", few, drawn, GRID_COLUMNS, run.folder)
        save_first(samples / "wall" / f"{task}.png", few, drawn, max(columns, GRID_COLUMNS), run.folder)
        prompts = json.dumps({"prompts": few.prompt[: max(columns, GRID_COLUMNS)]}, ensure_ascii=False)
        write_atomically(samples / "wall" / f"{task}.json", prompts + "\n", run.folder)


def save_first(path: Path, batch: Batch, answers: Tensor, columns: int, root: Path) -> None:
    """A grid of the first examples of a batch and their answers (B, 3, H, W)."""
    save_grid(path, batch, answers, torch.arange(len(answers)) < columns, root=root)


def write_evaluation(folder: Path, rows: Iterable[Row]) -> None:
    """Evaluation rows beside Lightning's training columns: `evaluation.csv`."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([EVALUATION, *(cells(row) for row in rows)])
    write_atomically(folder / "evaluation.csv", text.getvalue())


def keep_result(result: Result, path: Path) -> None:
    """Write the result of a run that has ended early, where that can be done."""
    try:
        result.save(path)
    except OSError as error:
        log.warning("%s cannot be written (%s)", path, error.strerror)
