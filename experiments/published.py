"""Judge a published model on the examples that the methods are judged on.

    python experiments/published.py pipeline=instruct_pix2pix
    python experiments/published.py pipeline=upscaler_x4 published.weights=<folder> metrics=published run_dir=out
    python experiments/published.py pipeline=inpainting device=cuda published.steps=20 evaluation.per_task=16

Nothing is trained. Writes `result.json` (as a run's, without costs), `evaluation.csv` and `samples/` into a folder of
its own; tables take it like any other. Options: pipeline=NAME (configs/published/), device=cpu|cuda, those of the
pipeline below `published`, and data, task, tasks, evaluation, metrics, seed, name and run_dir of experiments/run.py.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from composing import groups, guarded, sections
from cost import configured
from run import fingerprint

from mtdiff.config.schema import construct, refuse
from mtdiff.errors import ConfigError

UNUSED = ("method", "backbone", "training", "trainer", "balancing", "sampling", "weights", "logger", "progress")
OWN = ("pipeline", "device")


def split(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """This script's own options, and the overrides that are run.py's."""
    pairs = [(a.partition("=")[0], a.partition("=")[2]) for a in arguments]
    own = {k: v for k, v in pairs if k in OWN}
    names = groups()["published"]
    if own.get("pipeline") not in names:
        raise refuse("pipeline", own.get("pipeline", ""), names)
    if own.get("device", "cpu").partition(":")[0] not in ("cpu", "cuda"):
        raise refuse("device", own["device"], ("cpu", "cuda"))
    return own, [a for a, (key, _) in zip(arguments, pairs, strict=True) if key not in OWN]


def run_folder(pipeline: str, plain: Mapping[str, Any]) -> Path:
    if plain["run_dir"] is not None:
        return Path(plain["run_dir"])
    kept = {k: v for k, v in plain.items() if k not in UNUSED}
    return Path("runs") / str(plain["name"] or f"{pipeline}-seed{plain['seed']}-{fingerprint(kept)}")


def evaluated(plain: Mapping[str, Any], device: str, folder: Path) -> tuple[Any, list[Any]]:
    """The pipeline, and the rows of what it draws for the test examples of its tasks."""
    import torch

    from mtdiff.data.mixture import Mixture
    from mtdiff.runs.evaluation import judge_rows
    from mtdiff.runs.experiment import GRID_COLUMNS, write_evaluation
    from mtdiff.training.callbacks import save_grid
    from mtdiff.types import Batch

    settings = sections(plain)
    how = settings["evaluation"]
    judge = settings["metrics"].judge().to(device)
    tasks = {name: construct(plain["task"][name]) for name in plain["tasks"]}
    examples = Mixture.fixed(construct(plain["data"]), list(tasks.values()), how.split, how.per_task)
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


def main(arguments: list[str]) -> None:
    own, overrides = split(arguments)
    name, device = own["pipeline"], own.get("device", "cpu")
    plain, chosen = configured([f"+published={name}", *overrides])
    folder = run_folder(name, plain)
    if (folder / "result.json").exists():
        raise ConfigError(f"run_dir={folder}: holds a result.json already; choose another folder")
    from mtdiff.provenance import provenance
    from mtdiff.results.record import Result
    from mtdiff.results.terminal import announce

    config = {k: v for k, v in plain.items() if k not in UNUSED}
    weights = str(plain["published"]["weights"])
    source = Path(weights).name if Path(weights).is_dir() else weights
    began = time.monotonic()
    pipeline, rows = evaluated(plain, device, folder)
    seconds: dict[str, float | None] = {"train": None, "eval": round(time.monotonic() - began, 1)}
    total = sum(p.numel() for p in pipeline.denoiser.parameters())
    about = {"config": config, "rows": rows, **provenance(device)}
    result = Result(name, source, chosen["data"], plain["tasks"], plain["seed"], **about)
    params: dict[str, int | None] = {"trainable": 0, "total": total, "total_for_all_tasks": None}
    result = replace(result, params=params, seconds=seconds)
    result.save(folder / "result.json")
    announce(result, folder, "done")


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        sys.exit()
    guarded(lambda: main(sys.argv[1:]))
