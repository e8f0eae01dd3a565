"""What a run is judged beside, on the same examples: trivial answers, the autoencoder's rendering, the untouched base,
and the truth where it may miss the best value itself.

None of it depends on what the run has learned, so its rows are kept in the user's cache, under a hash of all that they
depend on: examples, networks, settings, and the project's own sources. Another method or seed finds them there.
"""

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtdiff.errors import reason
from mtdiff.files.reading import read_json
from mtdiff.files.writing import MEGABYTE, find_user_cache, first_process, write_atomically
from mtdiff.metrics.quality import Judge
from mtdiff.model.painter import Painter
from mtdiff.model.sampling import Guidance
from mtdiff.provenance import hash_sources, hash_weights, versions
from mtdiff.results.encoding import to_json
from mtdiff.results.record import Row, build_row
from mtdiff.results.schema import list_errors
from mtdiff.runs.experiment import Experiment
from mtdiff.training.parallel import merge_rows
from mtdiff.types import Batch

log = logging.getLogger(__name__)
LARGEST = 64 * MEGABYTE


def judge_baselines(run: Experiment, batch: Batch, drawn: Tensor | None) -> list[Row]:
    """Rows of trivial answers, of the autoencoder's rendering of the truth, of the base's answers `drawn`, and of the
    truth itself by those metrics that it may not meet.
    """
    rows: list[Row] = []
    for k, (name, task) in enumerate(run.data.tasks.items()):
        chosen = batch.task == k
        part = batch.rows(chosen)
        answers = {**run.trivial(name, part, task.references), "autoencoder": reconstruct(run, part.target)}
        if drawn is not None:
            answers["base"] = drawn[chosen]
        for model, answer in answers.items():
            rows += run.judge.rows(name, task.metrics, answer, part, run.evaluation.seed, model)
        missed = [metric for metric in task.metrics if run.judge.measure(metric.name, name).fallible]
        rows += run.judge.rows(name, missed, part.target, part, run.evaluation.seed, "truth")
    return rows


def make_base_painter(run: Experiment) -> Painter | None:
    """The untouched base as it answers: it reads the prompt, under the largest scale, and sees no source.

    It computes every step itself, however fast the run draws.
    """
    if run.untouched is None:
        return None
    text = Guidance(text=max((g.text for g in run.painter.guidance.values()), default=1.0))
    untouched = run.untouched.to(run.module.device)
    guidance = dict.fromkeys(untouched.tasks, text)
    return replace(run.painter, denoiser=untouched, guidance=guidance, inherit=None, switch=None, budget=None)


def reconstruct(run: Experiment, pictures: Tensor) -> Tensor:
    """The autoencoder's own rendering of pictures (n, 3, H, W): no model on its latents does better."""
    backbone = run.module.denoiser.backbone
    parts = pictures.split(run.evaluation.batch_size)
    return torch.cat([backbone.decode(backbone.encode(p.to(run.module.device))).cpu() for p in parts])


# Keeping


def remember_rows(run: Experiment, batch: Batch, make: Callable[[], list[Row]]) -> list[Row]:
    """Rows from the cache, or made now (by all processes together) and kept there."""
    found = read_rows(locate_rows(run, batch)) if first_process() else None
    there = merge_rows({"there": found is not None} if first_process() else {})["there"]
    if there:
        return found or []
    rows = make()
    if first_process():
        write_rows(locate_rows(run, batch), rows)
    return rows


def locate_rows(run: Experiment, batch: Batch) -> Path:
    digest = hashlib.sha256(json.dumps(describe_baselines(run, batch), sort_keys=True, default=str).encode())
    return find_user_cache() / f"baselines-{digest.hexdigest()[:32]}.json"


def describe_baselines(run: Experiment, batch: Batch) -> dict[str, Any]:
    """All that the rows depend on."""
    painter, backbone = make_base_painter(run), run.module.denoiser.backbone
    drawing: Any = None
    if painter is not None:
        scales = {task: asdict(scale) for task, scale in painter.guidance.items()}
        options = [painter.sampler, painter.steps, painter.keep_known, scales, run.trainer.get("precision")]
        drawing = [hash_weights(painter.denoiser.parameters()), *options]
    return {
        "examples": hash_batch(batch),
        "tasks": {name: [[m.name for m in t.metrics], t.references] for name, t in run.data.tasks.items()},
        "judge": describe_judge(run.judge),
        "autoencoder": hash_weights(p for name, p in backbone.named_parameters() if not name.startswith("denoiser.")),
        "drawing": drawing,
        "seed": run.evaluation.seed,
        "device": run.module.device.type,
        "sources": hash_sources(),
        "versions": versions(),
    }


def describe_judge(judge: Judge) -> dict[str, Any]:
    return {"measures": list(judge.measures), "weights": hash_weights(judge.parameters())}


def hash_batch(batch: Batch) -> str:
    """SHA-256 of every field."""
    digest = hashlib.sha256()
    named = {k: v for k, v in vars(batch).items() if k != "extra"} | {f"extra.{k}": v for k, v in batch.extra.items()}
    for name, value in sorted(named.items()):
        digest.update(name.encode())
        if isinstance(value, Tensor):
            digest.update(f"{tuple(value.shape)}".encode() + value.cpu().contiguous().numpy().tobytes())
        else:
            digest.update(json.dumps(value).encode())
    return digest.hexdigest()


def read_rows(path: Path) -> list[Row] | None:
    """None where nothing is kept, or where it cannot be read."""
    if not path.exists():
        return None
    try:
        content = read_json(path, LARGEST)
        errors = list(list_errors(content, [Row])) if isinstance(content, list) else ["expected a list"]
        if errors:
            raise ValueError(f"{path}: {errors[0]}")
    except ValueError as error:
        log.warning("%s; it is judged anew", error)
        return None
    return [build_row(row) for row in content]


def write_rows(path: Path, rows: list[Row]) -> None:
    try:
        write_atomically(path, json.dumps(to_json([asdict(row) for row in rows])) + "\n")
    except OSError as error:
        log.warning("%s cannot be written (%s); the same is judged again next time", path, reason(error))
