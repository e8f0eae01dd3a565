"""A published pipeline on the examples that the methods are judged on: `result.json` as a run's, without costs."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mtdiff.config.schema import construct
from mtdiff.config.settings import Settings
from mtdiff.data.mixture import Mixture
from mtdiff.provenance import provenance
from mtdiff.results.record import Result
from mtdiff.runs.judging import judge_rows
from mtdiff.runs.keep import GRID_COLUMNS, write_evaluation
from mtdiff.training.callbacks import save_grid
from mtdiff.types import Batch

UNUSED = ("method", "backbone", "training", "trainer", "balancing", "sampling", "weights", "logger", "progress")
"""Parts of a configuration that are about training, and change nothing here."""


def judge_published(name: str, data: str, plain: Mapping[str, Any], device: str, folder: Path) -> Result:
    """Draw and judge, and write the result into `folder`. name, data: of the pipeline and the data set, as chosen."""
    weights = str(plain["published"]["weights"])
    source = Path(weights).name if Path(weights).is_dir() else weights
    began = time.monotonic()
    pipeline, rows = judge_pipeline(plain, device, folder)
    seconds: dict[str, float | None] = {"train": None, "eval": round(time.monotonic() - began, 1)}
    total = sum(p.numel() for p in pipeline.denoiser.parameters())
    config = {k: v for k, v in plain.items() if k not in UNUSED}
    about = {"config": config, "rows": rows, **provenance(device)}
    result = Result(name, source, data, plain["tasks"], plain["seed"], **about)
    params: dict[str, int | None] = {"trainable": 0, "total": total, "total_for_all_tasks": None}
    result = replace(result, params=params, seconds=seconds)
    result.save(folder / "result.json")
    return result


def judge_pipeline(plain: Mapping[str, Any], device: str, folder: Path) -> tuple[Any, list[Any]]:
    """The pipeline, and the rows of what it draws for the test examples of its tasks."""
    how = Settings.read(plain).evaluation
    judge = construct(plain["metrics"]).judge().to(device)
    tasks = {name: construct(plain["task"][name]) for name in plain["tasks"]}
    examples = Mixture.first_examples(construct(plain["data"]), list(tasks.values()), how.split, how.per_task)
    pipeline = construct(plain["published"]).to(device)
    starts = range(0, len(examples), how.batch_size)
    batches = [Batch.collate([examples[i] for i in range(s, min(s + how.batch_size, len(examples)))]) for s in starts]
    answers = torch.cat([pipeline.draw(batch, how.seed) for batch in batches])
    batch = Batch.cat(batches)
    rows = list(judge_rows(judge, tasks, batch, answers, how.seed, "run"))
    folder.mkdir(parents=True, exist_ok=True)
    for k, task in enumerate(tasks):
        part = batch.task == k
        first = torch.arange(int(part.sum())) < GRID_COLUMNS
        save_grid(folder / "samples" / f"{task}.png", batch.rows(part), answers[part], first, root=folder)
    write_evaluation(folder, rows)
    return pipeline, rows
