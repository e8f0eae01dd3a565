"""The loop that every stage of pre-training shares: it saves as it goes and continues bit for bit.

A step's data depend on (stage, seed, step) alone, so the state is the networks, the optimisers and the step. A state
of another configuration or of other data is refused, and no failure to save touches the state that is there.
"""

import csv
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from mtdiff.errors import shown
from mtdiff.files.writing import replace_file, write_atomically

log = logging.getLogger(__name__)
STATE = "state.pt"


class Stage(ABC):
    """One network to train: what a step sees and what it pays for."""

    model: nn.Module

    @property
    def network(self) -> nn.Module:
        """What the optimiser sees; more than `model` where a stage trains a helper beside it."""
        return self.model

    @abstractmethod
    def draw_batch(self, step: int) -> Any:
        """The data of a step, a pure function of its number."""

    @abstractmethod
    def compute_losses(self, batch: Any) -> dict[str, Tensor]:
        """Scalars by name; the one called `loss` is minimised."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a stage trains, and at what rate.

    steps: at most. seconds: of this process's computing, at most; None for no such limit (trials compare at equal
    time). lr: peak of a warm-up over `warmup` steps, a plateau, and a linear decay over the last share `decay`.
    ema: decay of the running average of the weights, which is what a stage leaves.
    muon: learning rate of Muon on the linear layers' matrices (Jordan, 2024); None: AdamW for everything.
    """

    steps: int
    lr: float
    seconds: float | None = None
    warmup: int = 200
    decay: float = 0.3
    weight_decay: float = 0.01
    ema: float = 0.999
    muon: float | None = None

    def spent(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent."""
        by_time = 0.0 if self.seconds is None else seconds / self.seconds
        return max(step / self.steps, by_time)

    def rate(self, step: int, spent: float) -> float:
        """Factor of the learning rate."""
        falling = (1 - spent) / self.decay if self.decay > 0 else 1.0
        return max(0.0, min(1.0, (step + 1) / max(1, self.warmup), falling))


class Clock:
    """Seconds of work: of the processor on a CPU, where other work must not count, else of the wall."""

    def __init__(self, device: torch.device, before: float = 0.0) -> None:
        self._read = time.process_time if device.type == "cpu" else time.monotonic
        self._start = self._read() - before

    def seconds(self) -> float:
        return self._read() - self._start


def train_stage(
    stage: Stage,
    folder: Path,
    budget: Budget,
    identity: Mapping[str, Any],
    *,
    log_every: int = 50,
    save_every_s: float = 120.0,
    sample: Callable[[int], None] | None = None,
    sample_every_s: float = 900.0,
) -> dict[str, float]:
    """Train `stage` in place, from the state in `folder` where there is one; leaves it holding the EMA weights.

    identity: configuration and data of the stage; a state that was made with others is refused. sample: called with
    the step now and then, while the network holds its averages. Returns the steps and the seconds spent, those of
    earlier sittings included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = stage.network.train()
    params = [p for p in network.parameters() if p.requires_grad]
    optimizers = make_optimizers(network, budget)
    ema = EMAModel(params, decay=budget.ema, use_ema_warmup=True, power=0.75)
    state = read_state(folder / STATE, identity)
    step, before, sums = 0, 0.0, {}
    if state is not None:
        network.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        ema.load_state_dict(state["ema"])
        step, before, sums = state["step"], state["seconds"], state["sums"]
    cut_rows(folder / "log.csv", step)
    clock = Clock(params[0].device, before)
    saved = sampled = time.monotonic()

    def save() -> None:
        content: dict[str, Any] = {"model": network.state_dict(), "optimizers": [o.state_dict() for o in optimizers]}
        content |= {"ema": ema.state_dict(), "step": step, "seconds": clock.seconds(), "sums": sums}
        write_state(folder / STATE, {**content, "identity": json.dumps(dict(identity), sort_keys=True)})

    while (spent := budget.spent(step, clock.seconds())) < 1:
        for name, value in take_step(stage, params, optimizers, step, budget.rate(step, spent)).items():
            sums[name] = sums.get(name, 0.0) + value
        ema.step(params)
        step += 1
        if step % log_every == 0:
            row = {"step": step, "seconds": round(clock.seconds(), 1)}
            write_row(folder / "log.csv", row | {k: round(v / log_every, 5) for k, v in sums.items()})
            sums = {}
        if sample is not None and time.monotonic() - sampled > sample_every_s:
            sample_averages(ema, params, partial(sample, step))
            sampled = time.monotonic()
        if time.monotonic() - saved > save_every_s:
            save()
            saved = time.monotonic()
    save()
    ema.copy_to(params)
    return {"steps": step, "seconds": round(clock.seconds(), 1)}


def take_step(
    stage: Stage, params: Sequence[nn.Parameter], optimizers: Sequence[Any], step: int, rate: float
) -> dict[str, float]:
    """One step of every optimiser at `rate` times its peak; returns the losses."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
    batch = stage.draw_batch(step)
    with torch.autocast(params[0].device.type, torch.bfloat16):
        losses = stage.compute_losses(batch)
    stage.network.zero_grad()
    losses["loss"].backward()
    nn.utils.clip_grad_norm_(params, 1.0)
    for optimizer in optimizers:
        optimizer.step()
    return {name: value.item() for name, value in losses.items()}


def make_optimizers(network: nn.Module, budget: Budget) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the matrices of linear layers and AdamW for the rest."""
    linear = [m.weight for m in network.modules() if isinstance(m, nn.Linear)]
    matrices = [] if budget.muon is None else [p for p in linear if p.requires_grad]
    ids = {id(p) for p in matrices}
    rest = [p for p in network.parameters() if p.requires_grad and id(p) not in ids]
    options: dict[str, Any] = {"lr": budget.lr, "weight_decay": budget.weight_decay}
    made: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, betas=(0.9, 0.99), fused=True, **options)]
    if budget.muon is not None:
        made.append(torch.optim.Muon(matrices, lr=budget.muon, weight_decay=budget.weight_decay))
    for optimizer in made:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return made


def sample_averages(ema: EMAModel, params: Sequence[nn.Parameter], draw: Callable[[], None]) -> None:
    """Call `draw` while the parameters hold their averages."""
    ema.store(params)
    ema.copy_to(params)
    draw()
    ema.restore(params)


def read_state(path: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """The state of a stage, None where there is none; ValueError in one line for one that cannot be continued."""
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        there = json.loads(state["identity"])
    except Exception as error:  # a cut or damaged file: torch, zip and pickle each raise their own
        why = shown(str(error).splitlines()[0], 200)
        raise ValueError(f"{path}: cannot be read ({why}); it is left as it is, remove it to begin anew") from None
    asked = json.loads(json.dumps(dict(identity)))
    for key in sorted({*there, *asked}):
        if there.get(key) != asked.get(key):
            made, wanted = json.dumps(there.get(key)), json.dumps(asked.get(key))
            raise ValueError(f"{path}: was made with {key}={made}, asked for is {wanted}; choose another work folder")
    return state


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Put a new state in the place of the old one, which stays whole until the new one is on the disk."""
    try:
        with replace_file(path) as file:
            torch.save(dict(state), file)
    except (OSError, RuntimeError) as error:  # torch tells a full disk by a RuntimeError
        why = shown(str(error).splitlines()[0], 200)
        raise ValueError(f"{path}: cannot be written ({why}); the state before it is kept") from None


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Append a row to a CSV file, with a header where it begins."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    log.info("%s %s", path.parent.name, dict(row))


def cut_rows(path: Path, step: int) -> None:
    """Take away the rows of steps that were made after the state was saved, and are about to be made again."""
    if path.exists():
        header, *rows = path.read_text().splitlines()
        write_atomically(path, "\n".join([header, *(row for row in rows if int(row.split(",")[0]) <= step)]) + "\n")
