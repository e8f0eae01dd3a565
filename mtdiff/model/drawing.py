"""The steps of one drawing: which model computes each, and which of them inherit from the step before.

Letters: B batch, K predictions in all, C latent channels, h w latent size, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from mtdiff.model.denoiser import Denoiser
from mtdiff.model.inheritance import Inheritance, Store
from mtdiff.types import Condition

Side = Literal["full", "light"]


@dataclass(frozen=True, kw_only=True)
class Switch:
    """Another model that draws a part of the steps (multi-UNet switching, A-SDM, arXiv 2406.00210).

    light: on the same base, for at least the tasks of the full one. first: which of the two begins; it draws the steps
    at times of at least `until`. The paper has the light one first and gives no time; both orders are offered.
    """

    light: Denoiser
    until: float
    first: Side

    def draws(self, t: float) -> Side:
        """Which model computes the step at time t."""
        second: Side = "full" if self.first == "light" else "light"
        return self.first if t >= self.until else second


@dataclass(frozen=True)
class Step:
    """side: the model that computes the step. whole: it inherits nothing. keep: a later step inherits from it."""

    side: Side
    whole: bool = True
    keep: bool = False


def plan_steps(times: Sequence[float], inheritance: Inheritance | None, switch: Switch | None) -> list[Step]:
    """Plan the steps at these falling times. Each model inherits from its own steps alone."""
    sides: list[Side] = ["full" if switch is None else switch.draws(t) for t in times]
    if inheritance is None:
        return [Step(side) for side in sides]
    whole = [True] * len(times)
    keep = [False] * len(times)
    for side in set(sides):
        own = [i for i, name in enumerate(sides) if name == side]
        for i, is_whole in zip(own, inheritance.plan([times[i] for i in own]), strict=True):
            whole[i] = is_whole
        for i, after in pairwise(own):
            keep[i] = whole[i] and not whole[after]
    return [Step(*row) for row in zip(sides, whole, keep, strict=True)]


class Drawing:
    """Answers the calls that a sampler makes for one batch, one a step, in the order of a plan. Used once."""

    def __init__(
        self,
        full: Denoiser,
        steps: Sequence[Step],
        inheritance: Inheritance | None,
        switch: Switch | None,
        budget: float | None = None,
    ) -> None:
        """budget: of the full model's steps; see `Painter`."""
        self._budget = budget
        self._steps = iter(steps)
        self._models = {"full": full} if switch is None else {"full": full, "light": switch.light}
        used = {step.side for step in steps}
        self._stores = {} if inheritance is None else {s: Store(self._models[s], inheritance) for s in used}
        self._tasks = None if switch is None else map_tasks(full.tasks, switch.light.tasks)  # (T,)

    def __call__(self, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """noisy (K, C, h, w), t (K,) -> prediction (K, C, h, w)."""
        return self.compute(next(self._steps), noisy, t, condition)

    def compute(self, step: Step, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        """As a call, for a step of any kind; one that inherits needs an earlier one of its side that keeps."""
        if step.side == "light":
            assert self._tasks is not None
            condition = replace(condition, task=self._tasks.to(condition.task.device)[condition.task])
        else:
            condition = condition.limit(self._budget)
        if step.side in self._stores:
            return self._stores[step.side](noisy, t, condition, whole=step.whole, keep=step.keep)
        return self._models[step.side](noisy, t, condition)


def map_tasks(tasks: Sequence[str], others: Sequence[str]) -> Tensor:
    """The ids (T,) that another model has for these tasks. ValueError where it lacks one."""
    missing = [task for task in tasks if task not in others]
    if missing:
        raise ValueError(f"sampling.switch.light: was not trained for {missing[0]}, expected {', '.join(tasks)}")
    return torch.tensor([list(others).index(task) for task in tasks])
