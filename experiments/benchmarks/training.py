"""Training steps: methods against full fine-tuning, cached encodings against fresh ones, our loop against a bare one
of diffusers and torch alone, and checkpoints against the steps between them.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning
import torch
from torch.utils.data import DataLoader

from benchmarks.bare import BareLoop
from benchmarks.timing import Bar, Comparison, How, take_turns
from mtdiff.data.mixture import Mixture
from mtdiff.runs.experiment import MIXED_DTYPES, Experiment
from mtdiff.runs.train import train
from mtdiff.training import encodings
from mtdiff.training.cache import Cache
from mtdiff.training.checkpoint_files import list_checkpoints
from mtdiff.training.checkpoints import Checkpoints
from mtdiff.training.module import MultiTaskModule
from mtdiff.training.parallel import trainer_arguments
from mtdiff.training.signals import Signals
from mtdiff.types import Batch

WARMUP = 2  # steps at the start of every turn that do not count: optimiser states and loader workers are made in them


class Clock(lightning.Callback):
    """Seconds per step between the starts of two training batches."""

    def __init__(self, how: How) -> None:
        self.how, self.stamps = how, list[float]()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.stamps.append(stamp(self.how))

    def per_step(self) -> float:
        return per_step(self.stamps)


def stamp(how: How) -> float:
    how.wait()
    return time.perf_counter()


def per_step(stamps: list[float]) -> float:
    """Of the steps after the warm-up, from the starts of all steps."""
    return (stamps[-1] - stamps[WARMUP]) / (len(stamps) - 1 - WARMUP)


# Methods


def compare_training(
    modules: Mapping[str, MultiTaskModule], batches: list[Batch], trainer: Mapping[str, Any], how: How, turns: int
) -> Comparison:
    """Every module steps through the same batches; all against `finetune`. trainer: arguments of Lightning's."""
    variants = {name: fitting(module, batches, trainer, how) for name, module in modules.items()}
    seconds = take_turns(variants, how, how.turns(turns), warmup=0)
    asked = {"mtu": 1.0, "lora_ffn": 1.0, "ia3": 1.0}
    bars = tuple(Bar(name, "finetune", "speed", asked.get(name)) for name in modules if name != "finetune")
    counts = {
        f"trained {name}": sum(p.numel() for p in m.parameters() if p.requires_grad) for name, m in modules.items()
    }
    return Comparison("training", f"steps of {len(batches[0])} examples", seconds, bars, counts)


def fitting(module: MultiTaskModule, batches: list[Batch], trainer: Mapping[str, Any], how: How) -> Callable[[], float]:
    """Steps through the batches under Lightning; seconds per step."""

    def steps() -> float:
        clock = Clock(how)
        options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        options |= {"max_epochs": 1, "enable_model_summary": False, "gradient_clip_val": 1.0}
        made = lightning.Trainer(**trainer_arguments(trainer), **options, callbacks=[clock])
        loader: Any = DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch)  # type: ignore[arg-type]
        made.fit(module, train_dataloaders=loader)
        return clock.per_step()

    return steps


# Cached encodings


def compare_cached(run: Experiment, folder: Path, how: How, turns: int) -> Comparison:
    """Steps of an experiment whose encodings are all in a cache, against steps that make them. folder: for the cache.

    Pictures are at hand in both, and hashed in the first; `losses apart` is the largest difference of a loss before.
    """
    module, size = run.module, run.training.batch_size
    cache = Cache(folder, module.denoiser.backbone, str(run.trainer["precision"]), create=True)
    module.to(how.device)
    encoder = encodings.CachedEncoder(module.denoiser.backbone, cache)
    assert isinstance(run.data.train, Mixture)
    chosen = encodings.Chosen(run.data.train, encodings.plan_parts(run.data.train, "all"))
    with torch.no_grad(), run.autocast():
        for made in encodings.load_batches(chosen, range(run.training.steps * size), size, 0):
            encodings.fill_cache(encoder, made, module.device)
    cache.write()
    batches = list(islice(run.data.train_dataloader(), run.training.steps))
    losses: dict[str, list[float]] = {}

    def variant(name: str, found: encodings.CachedEncoder | None) -> Callable[[], float]:
        module.cache = found
        with torch.no_grad(), run.autocast():
            losses[name] = [x for b in batches for x in module.errors(b.to(module.device))[0].tolist()]
        steps = fitting(module, batches, run.trainer, how)

        def call() -> float:
            module.cache = found
            return steps()

        return call

    variants = {"cached": variant("cached", encoder), "uncached": variant("uncached", None)}
    apart = max(abs(a - b) for a, b in zip(losses["cached"], losses["uncached"], strict=True))
    hits, asked = (sum(column) for column in zip(*encoder.found.values(), strict=True))
    seconds = take_turns(variants, how, how.turns(turns), warmup=0)
    case = f"steps of {size} examples, {run.trainer['precision']}"
    counts = {"losses apart": apart, "found": hits / asked}
    return Comparison("cache", case, seconds, (Bar("cached", "uncached", "speed", 1.0),), counts)


# The loop


def compare_loops(run: Experiment, folder: Path, how: How, turns: int) -> Comparison:
    """An experiment as `run.py` makes it, of the method `finetune`, against `BareLoop`, on the same batches from the
    same loader. Every turn trains for `training.steps` steps from the first example on. folder: for its run folders."""
    precision = str(run.trainer["precision"])
    backbone: Any = run.module.denoiser.backbone
    options = {key: getattr(run.training, key) for key in ("lr", "betas", "weight_decay")}
    bare = BareLoop(backbone, options, run.training.clip, MIXED_DTYPES.get(precision), how.device)
    folders = (folder / f"turn-{number}" for number in count())

    def ours() -> float:
        fresh, stamps = next(folders), list[float]()
        fresh.mkdir()
        run.module.on_train_batch_start = lambda *_: stamps.append(stamp(how))  # type: ignore[method-assign, assignment, func-returns-value]
        with Signals() as signals:
            train(replace(run, folder=fresh), signals)
        return per_step(stamps)

    def theirs() -> float:
        run.data.trainer = None  # the loader starts at the first example again
        stamps = []
        for batch in islice(run.data.train_dataloader(), run.training.steps):
            stamps.append(stamp(how))
            bare.step(batch)
        return per_step(stamps)

    seconds = take_turns({"ours": ours, "bare": theirs}, how, how.turns(turns), warmup=0)
    case = f"steps of {run.training.batch_size} examples, {precision}"
    return Comparison("loop", case, seconds, (Bar("ours", "bare", "speed", 0.95),), {})


# Checkpoints


def compare_checkpoints(run: Experiment, folder: Path, every: int, how: How, turns: int) -> Comparison:
    """A checkpoint against `every` steps. Each turn trains for `training.steps` steps and saves once, at their end."""
    seconds: dict[str, list[float]] = {"save": [], "steps between": []}
    save, size = Checkpoints.save, 0

    def time_save(callback: Checkpoints, trainer: lightning.Trainer) -> None:
        began = stamp(how)
        save(callback, trainer)
        seconds["save"].append(stamp(how) - began)

    run = replace(run, training=replace(run.training, save_every=run.training.steps))
    for turn in range(how.turns(turns)):
        fresh, stamps = folder / f"turn-{turn}", list[float]()
        fresh.mkdir()
        run.module.on_train_batch_start = lambda *_, stamps=stamps: stamps.append(stamp(how))  # type: ignore[method-assign, assignment, misc]
        with Signals() as signals, patch.object(Checkpoints, "save", time_save):
            train(replace(run, folder=fresh), signals)
        seconds["steps between"].append(every * per_step(stamps))
        size = list_checkpoints(fresh / "checkpoints")[0].stat().st_size
    bar = Bar("save", "steps between", "time", most=0.03)
    return Comparison("checkpoints", f"one every {every} steps", seconds, (bar,), {"megabytes": size / 1e6})
