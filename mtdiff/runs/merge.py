"""Runs of one task each merged into one run of all of them, without training.

What belongs to a task (its input convolution, its norms) stays as its run trained it; what tasks share is merged by a
rule (`mtdiff.methods.merging`). Parts must be of one method and of one base, by the hash of its weights.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mtdiff.config.defaults import fill_defaults
from mtdiff.config.schema import construct
from mtdiff.data.mixture import FixedExamples
from mtdiff.methods.merging import Rule
from mtdiff.model.denoiser import Denoiser
from mtdiff.results.record import Result
from mtdiff.runs.adapter import About
from mtdiff.runs.evaluation import split_examples
from mtdiff.runs.execute import conclude
from mtdiff.runs.experiment import Experiment
from mtdiff.runs.keep import build_report, save_adapter
from mtdiff.runs.load import read_part as read_tensors
from mtdiff.runs.sums import join_tensors
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import Batch

SCALES = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Tried where the scale is chosen on validation."""


@dataclass(frozen=True)
class Part:
    """One of the runs: what it says of itself, its result, and its adapter's tensors."""

    about: About
    result: Result
    tensors: Mapping[str, Tensor]

    def describe(self, weight: float) -> dict[str, Any]:
        """For `Result.parts`. weight: in the merged change."""
        digest = hashlib.sha256(self.about.weights.read_bytes()).hexdigest()
        own = {k: getattr(self.result, k) for k in ("method", "tasks", "seed", "steps", "samples_seen")}
        return {**own, "weight": weight, "adapter": digest, "commit": self.result.git.get("commit")}


def check_parts(parts: Sequence[About]) -> None:
    """Refuse runs that do not belong together, before any weight is read."""
    first, seen = parts[0], set[str]()
    for about in parts:
        if len(about.tasks) != 1:
            raise ValueError(f"{about.path}: has the tasks {', '.join(about.tasks)}, expected a run of one task")
        if about.tasks[0] in seen:
            raise ValueError(f"{about.path}: its task {about.tasks[0]!r} comes twice, expected a run for each task")
        seen.add(about.tasks[0])
        for key in ("method", "backbone"):
            own, other = (fill_defaults(x.content)[key] for x in (about, first))
            if own != other:
                raise ValueError(f"{about.path}: has another `{key}` than {first.path}; expected the same in all runs")
        if about.content.get("base") != first.content.get("base"):
            raise ValueError(f"{about.path}: was trained on other weights of the base than {first.path}")


def read_part(about: About, result: Result, base: Any, digest: str) -> Part:
    """A part, once its adapter is known to fit the base. base: an untouched backbone; digest: of its weights."""
    return Part(about, result, read_tensors(about, base, digest))


def merge_adapters(denoiser: Denoiser, start: Mapping[str, Tensor], parts: Sequence[Part], rule: Rule) -> None:
    """Put the merged adapter into a denoiser of the parts' tasks in their order. start: its adapter untrained."""
    own = {id(p) for p in denoiser.method.task_parameters(denoiser.backbone)}
    of_tasks = {name for name, p in denoiser.backbone.denoiser.named_parameters() if id(p) in own}
    trained = [part.tensors for part in parts]
    merged = dict(start)
    for name in of_tasks & set(trained[0]):
        merged[name] = torch.cat([tensors[name] for tensors in trained])
    shared = {name: value for name, value in start.items() if name not in of_tasks and name in trained[0]}
    denoiser.load_adapter(merged | denoiser.method.merge(shared, trained, rule))


@torch.no_grad()
def measure_errors(module: MultiTaskModule, examples: FixedExamples, size: int) -> float:
    """The sum over tasks of the mean prediction error, which is what joint training minimises."""
    found: dict[int, list[float]] = {}
    for part in split_examples(examples, size):
        batch = Batch.collate(part).to(module.device)
        for task, error in zip(batch.task.tolist(), module.errors(batch)[0].tolist(), strict=True):
            found.setdefault(task, []).append(error)
    return sum(sum(errors) / len(errors) for errors in found.values())


def choose_scale(run: Experiment, start: Mapping[str, Tensor], parts: Sequence[Part], rule: Rule) -> dict[float, float]:
    """Errors on the validation examples by scale, of SCALES."""
    errors = {}
    for scale in SCALES:
        merge_adapters(run.module.denoiser, start, parts, replace(rule, scale=scale))
        with run.autocast():
            errors[scale] = measure_errors(run.module, run.data.validation, run.evaluation.batch_size)
    return errors


def execute_merge(
    run: Experiment, result: Result, about: Mapping[str, Any], parts: Sequence[Part], rule: Rule, choose: bool
) -> Result:
    """Merge, keep the adapter, evaluate, write `result.json`. choose: the scale by validation, not the rule's."""
    began = time.monotonic()
    start = {name: value.cpu().clone() for name, value in run.module.denoiser.adapter().items()}
    tried = choose_scale(run, start, parts, rule) if choose else {}
    rule = replace(rule, scale=min(tried, key=lambda scale: tried[scale])) if tried else rule
    merging = time.monotonic()
    merge_adapters(run.module.denoiser, start, parts, rule)
    seconds = {"merge": round(time.monotonic() - merging, 3), "choose": round(merging - began, 3)}
    report = {**vars(rule), "validation": {str(k): v for k, v in tried.items()}, "seconds": seconds}
    report["memory_mb"] = count_megabytes([start, *(part.tensors for part in parts)])
    result = count_parts(result, parts, rule.weights(len(parts)))
    found = build_report(run, save_adapter(run, about))
    return conclude(run, result, {**found, "merge": report})


def count_megabytes(adapters: Sequence[Mapping[str, Tensor]]) -> float:
    """Of the tensors that are held at once while adapters are merged."""
    return round(sum(tensor.nbytes for adapter in adapters for tensor in adapter.values()) / 1e6, 3)


def count_parts(result: Result, parts: Sequence[Part], weights: Sequence[float]) -> Result:
    """The result with what all parts took together, and what they were."""
    sums = {k: sum(getattr(part.result, k) for part in parts) for k in ("steps", "samples_seen")}
    spent = [part.result.seconds["train"] for part in parts]
    return replace(
        result,
        **sums,
        seconds={"train": None if None in spent else sum(s for s in spent if s is not None), "eval": None},
        parts=[part.describe(w) for part, w in zip(parts, weights, strict=True)],
    )


def execute_sum(
    run: Experiment, result: Result, about: Mapping[str, Any], parts: Sequence[Part], weights: Sequence[float]
) -> Result:
    """Put the tensors of all parts side by side, keep the adapter, evaluate, write `result.json`."""
    run.module.denoiser.load_adapter(join_tensors([part.tensors for part in parts]))
    result = count_parts(result, parts, weights)
    found = build_report(run, save_adapter(run, about))
    return conclude(run, result, {**found, "sum": {"weights": list(weights)}})


def make_method(method: Mapping[str, Any], parts: int) -> dict[str, Any]:
    """The node of the merged run's method."""
    options = {k: v for k, v in method.items() if k != "_target_"}
    return {"_target_": method["_target_"], **construct(method).merge_options(options, parts)}


def locate_result(about: About) -> Path:
    return about.path.parent / "result.json"
