"""One run from constructed objects to `result.json`: train, keep the adapter, evaluate."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lightning.pytorch.loggers import Logger

from mtdiff.errors import Interrupted, RunError, one_line
from mtdiff.results.record import Result
from mtdiff.runs.baselines import hash_batch
from mtdiff.runs.evaluation import evaluate
from mtdiff.runs.experiment import Experiment
from mtdiff.runs.keep import build_report, keep_result, report_tasks, save_adapter, save_samples, write_evaluation
from mtdiff.runs.train import train
from mtdiff.training.loggers import HURRY, close, publish
from mtdiff.training.memory import advise, within_memory
from mtdiff.training.parallel import is_first
from mtdiff.training.signals import Signals


def execute(run: Experiment, result: Result, about: Mapping[str, Any]) -> Result:
    """Train, keep the adapter, evaluate, write `result.json`; a run that breaks leaves one with its status."""
    with Signals() as signals:
        return _execute_steps(run, result, about, signals)


def _execute_steps(run: Experiment, result: Result, about: Mapping[str, Any], signals: Signals) -> Result:
    path = run.folder / "result.json"
    open_loggers: list[Logger] = []
    try:
        with within_memory("training", advise(run.training, run.trainer)):
            trainer, seconds = train(run, signals)
        open_loggers = trainer.loggers
        run.module.to(trainer.strategy.root_device)  # Lightning leaves it on the CPU
        report = build_report(run, save_adapter(run, about))
        seen = trainer.global_step * run.training.batch_size * run.training.accumulate * trainer.world_size
        result = replace(result, steps=trainer.global_step, samples_seen=seen)
        result = replace(result, seconds={"train": round(seconds, 1), "eval": None})
        result = conclude(run, result, report)
    except BaseException as error:
        close(open_loggers, HURRY)
        stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        ended = replace(result, status="interrupted" if stopped else "failed", rows=[], error=one_line(error))
        if run.folder.exists() and is_first():
            keep_result(ended, path)
        if isinstance(error, OSError):
            raise RunError(f"{run.folder}: {one_line(error)}; what is there is kept") from error
        raise
    publish(open_loggers, result, run.folder)
    close(open_loggers)
    return result


def conclude(run: Experiment, result: Result, report: Mapping[str, Any]) -> Result:
    """Draw and judge the test examples, and write what a run leaves at its end. report: of its method."""
    began = time.monotonic()
    with within_memory("evaluating", ["a lower evaluation.batch_size"]):
        rows, batch, answers = evaluate(run)
    if not is_first():
        return result
    save_samples(run, batch, answers)
    write_evaluation(run.folder, rows)
    spent = {**result.seconds, "eval": round(time.monotonic() - began, 1)}
    result = replace(result, status="complete", seconds=spent, rows=rows)
    told = {"judges": judges} if (judges := run.judge.describe()) else {}
    report = {**report, **told, **run.describe_origin(), "data_hash": hash_batch(batch)}
    result = replace(result, method_report=report)
    if not result.parts:
        result = replace(result, starvation=report_tasks(run, result.samples_seen))
    result.save(run.folder / "result.json")
    return result
