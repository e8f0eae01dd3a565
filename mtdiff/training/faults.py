"""Losses and gradients that are not finite: training stops at that step and keeps its batch, or leaves the step out.

`faults/step-<n>.json` and `.safetensors` hold the batch; `step-<n>-weights.safetensors` what was trained so far, with
the first fault of a run alone. `experiments/studies/replay.py` computes the step from them again.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mtdiff.errors import RunError, reason
from mtdiff.files.reading import check_header, read_json
from mtdiff.files.writing import write_atomically
from mtdiff.training.module import MultiTaskModule
from mtdiff.training.parallel import gather_tensor, is_first
from mtdiff.types import Batch

log = logging.getLogger(__name__)
MOST = 10  # faults whose batches are kept, where steps are left out
NAMED = 8  # parameters named in a fault
PARTS = ("denoiser", "balancing")
TENSORS = ("target", "source", "mask", "task")  # of a batch
EXTRA = "extra."  # before the names of a batch's extra tensors
LISTS = {"prompt": str, "key": str, "source_caption": str, "target_caption": str, "seed": int}  # of a batch


@dataclass
class Part:
    """One batch of an optimiser step, and its loss ()."""

    batch: Batch
    loss: Tensor | None = None


class Finite(Callback):
    """Looks at losses and gradients before each optimiser step. `skip` leaves the step out, counted in `skipped`.

    A gradient scaler (float16) leaves out steps with infinite gradients by itself; then only losses are looked at.
    Keeps a reference to the batches of a step until it is done.
    """

    def __init__(self, folder: Path, on_nan: Literal["stop", "skip"]) -> None:
        self.folder, self.on_nan, self.skipped = folder, on_nan, 0
        self._parts: list[Part] = []
        self._step = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
        self._step = trainer.global_step

    def on_train_batch_start(self, trainer: lightning.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        if trainer.global_step != self._step:
            self._step, self._parts = trainer.global_step, []
        self._parts.append(Part(batch))

    def on_before_backward(self, trainer: lightning.Trainer, pl_module: Any, loss: Tensor) -> None:
        self._parts[-1].loss = loss.detach()

    def on_before_optimizer_step(self, trainer: lightning.Trainer, pl_module: Any, optimizer: Any) -> None:
        losses = torch.stack([part.loss for part in self._parts if part.loss is not None])
        finite = torch.isfinite(losses).all()
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        precision = trainer.precision_plugin
        if not (isinstance(precision, MixedPrecision) and precision.scaler is not None) and gradients:
            finite = finite & torch.isfinite(gather_tensor(torch.nn.utils.get_total_norm(gradients)))
        if trainer.strategy.reduce_boolean_decision(bool(finite)):  # the one wait for the device in a step
            return
        self.fault(trainer, pl_module)

    def fault(self, trainer: lightning.Trainer, module: MultiTaskModule) -> None:
        step = trainer.global_step + 1
        wrong = [p for p in self._parts if p.loss is not None and not torch.isfinite(p.loss)]
        with trainer.precision_plugin.train_step_context():
            about, where = describe(module, wrong or self._parts, "loss" if wrong else "gradient")
        said = f"step {step}: the {about['what']} is not finite ({where})"
        if self.skipped < MOST:
            name = f"step-{step}" + (f"-rank-{trainer.global_rank}" if trainer.world_size > 1 else "")
            path = self.folder / f"{name}.json"
            weights = read_trained(module) if self.skipped == 0 else None
            try:
                keep(path, {"step": step, **about}, Batch.cat([p.batch for p in wrong or self._parts]))
                if weights is not None and is_first():
                    place = self.folder / f"step-{step}-weights.safetensors"
                    write_atomically(place, save(weights), root=self.folder.parent)
                said += f"; its batch is in {path}"
            except OSError as error:
                said += f"; its batch could not be kept ({reason(error)})"
        if self.on_nan == "stop":
            raise RunError(said)
        self.skipped += 1
        log.warning("%s; the step is left out (%d so far)", said, self.skipped)
        for parameter in module.parameters():
            parameter.grad = None  # an optimiser leaves parameters without a gradient as they are

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped = state_dict["skipped"]


def describe(module: MultiTaskModule, parts: Sequence[Part], what: str) -> tuple[dict[str, Any], str]:
    """What is known of a fault, and where it is in few words."""
    batch = Batch.cat([part.batch for part in parts])
    with torch.no_grad():
        found = [module.training_errors(part.batch) for part in parts]
    errors, times = (torch.cat(values).tolist() for values in zip(*found, strict=True))
    examples = [
        {"key": key, "task": module.tasks[task], "t": t, "seed": seed, "prompt": prompt, "error": str(error)}
        for key, task, t, seed, prompt, error in zip(
            batch.key, batch.task.tolist(), times, batch.seed, batch.prompt, errors, strict=True
        )
    ]
    bad = [e for e, error in zip(examples, errors, strict=True) if error - error != 0]
    gradients = ((k, gather_tensor(p.grad)) for k, p in module.named_parameters() if p.grad is not None)
    names = [k for k, gradient in gradients if not torch.isfinite(gradient).all()]
    where = [f"{e['task']} {e['key']} at t={e['t']}" for e in bad] or [f"of {name}" for name in names[:1]]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    about = {"what": what, "parameters": names[:NAMED], "parameters_in_all": len(names), "examples": examples}
    return about, f"{where[0] if where else 'in the sum over the batch'}{more}"


def keep(path: Path, about: dict[str, Any], batch: Batch) -> None:
    """`step-<n>.json` and `step-<n>.safetensors`: enough to make the batch again with `load`."""
    texts = {name: getattr(batch, name) for name in LISTS}
    tensors = {name: getattr(batch, name) for name in TENSORS} | {EXTRA + k: v for k, v in batch.extra.items()}
    root = path.parents[1]
    content = save({k: v.cpu().contiguous() for k, v in tensors.items()})
    write_atomically(path.with_suffix(".safetensors"), content, root)
    write_atomically(path, json.dumps({**about, "batch": texts}, indent=1) + "\n", root)


def read_trained(module: MultiTaskModule) -> dict[str, Tensor]:
    """What a method trains and a balancing learns, whole: every process has to ask for it."""
    states = (module.denoiser.adapter(), module.balancing.state_dict())
    named = {f"{part}.{k}": v for part, state in zip(PARTS, states, strict=True) for k, v in state.items()}
    return {k: gather_tensor(v.detach()).cpu().contiguous() for k, v in named.items()}


def load(path: Path) -> Batch:
    """The batch of a fault. ValueError in one line where the files do not hold one."""
    about = read_json(path)
    texts = about.get("batch") if isinstance(about, dict) else None
    tensors = read_tensors(path.with_suffix(".safetensors"))
    extra = {k.removeprefix(EXTRA): tensors.pop(k) for k in list(tensors) if k.startswith(EXTRA)}
    parts: dict[str, Any] = {**tensors, **(texts if isinstance(texts, dict) else {})}
    if set(tensors) != set(TENSORS) or set(parts) != {*TENSORS, *LISTS}:
        raise ValueError(f"{path}: holds no batch, expected {', '.join([*TENSORS, *LISTS])}")
    for name, kind in LISTS.items():
        if not isinstance(parts[name], list) or not all(type(v) is kind for v in parts[name]):
            raise ValueError(f"{path}: batch.{name}: expected a list, each {kind.__name__}")
    every = [*parts.values(), *extra.values()]
    if any(isinstance(v, Tensor) and v.ndim == 0 for v in every) or len({len(v) for v in every}) != 1:
        raise ValueError(f"{path}: holds no batch of one length")
    return Batch(**parts, extra=extra)


def load_trained(module: MultiTaskModule, path: Path) -> None:
    """Put back what `read_trained` gave. ValueError where it is of another method or base."""
    state = read_tensors(path)
    parts = {p: {k.removeprefix(f"{p}."): v for k, v in state.items() if k.startswith(f"{p}.")} for p in PARTS}
    try:
        module.denoiser.load_adapter(parts["denoiser"])
        module.balancing.load_state_dict(parts["balancing"])
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: {reason(error)}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    check_header(path)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: cannot be read ({reason(error)})") from None


# Replay


@dataclass(frozen=True)
class Replayed:
    """errors, t: of each example (B,). loss: as training weighs it. gradients: names of those that are not finite."""

    batch: Batch
    errors: Tensor
    t: Tensor
    loss: float
    gradients: list[str]


def replay(module: MultiTaskModule, batch: Batch) -> Replayed:
    """The loss of one batch and its gradients, without a step. The weights of tasks are left aside."""
    batch = batch.to(module.device)
    errors, t = module.training_errors(batch)
    loss = module.balancing.weighting(errors, t, module.diffusion).mean()
    loss.backward()
    gradients = ((k, p.grad) for k, p in module.named_parameters() if p.grad is not None)
    names = [k for k, gradient in gradients if not torch.isfinite(gradient).all()]
    return Replayed(batch, errors.detach().cpu(), t.cpu(), float(loss.detach()), names)
