"""NN-Factory on a denoiser (arXiv 2308.15003): one supernet, from which a network for a task and a budget is assembled.

    gates = assembler(task, b)        loss = |e(b) - target|^2 + distil * |e(b) - e(1)|^2

Only the paper's abstract is public, and its tasks are classification and detection. Decided here:
- modules are whole transformer blocks, whole residual blocks (a shortcut that changes the number of channels stays),
  and slices of feed-forward layers, which are MTU's experts; a budget is a share of the base's FLOPs;
- every sample draws its budget by the sandwich rule (slimmable networks, arXiv 1903.05134): a quarter the largest, a
  quarter the smallest, the rest any. At budget 1 everything is on, so that the start equals the base;
- the other budgets are taught by the same network at the largest one, without gradient (in place distillation);
- everything is trained, as in `Finetune`, whose task embedding and input convolutions it has; masks save nothing, so
  experiments/assemble.py writes the network that is left.

Baselines of it: `choice=uniform`, `choice=random`, `task_aware=false`, and `budgets=[0.5]`, a model of one size.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.distillation import Tap, mean_square, tap_all
from baselines.finetune import Finetune, fold_time
from mtdiff.backbones.base import Backbone
from mtdiff.methods.assembler import Assembler, find_assembler
from mtdiff.methods.base import CannotFold
from mtdiff.methods.routing import Routing
from mtdiff.methods.supernet import Module, copy_structure, find_modules, install_gates, reduce_network, remove_gates
from mtdiff.methods.taskwise import TaskConv2d
from mtdiff.methods.teaching import Teaching
from mtdiff.rng import torch_rng
from mtdiff.types import Condition

CHOICES = ("learned", "uniform", "random")


class Budgeted(Finetune):
    """budgets: drawn in training; the largest is that of drawings that name none. slices: of a feed-forward layer.

    choice: of modules, by the assembler or fixed. task_aware: the assembler sees the task. distil: weight of the
    distance to the largest budget. width: of the assembler's embedding and hidden layer. assembly: one 0 or 1 for each
    module, written by experiments/assemble.py; the modules at 0 are gone, and there is nothing left to choose.
    """

    def __init__(
        self,
        budgets: Sequence[float] = (1.0, 0.75, 0.5, 0.35),
        slices: int = 4,
        choice: Literal["learned", "uniform", "random"] = "learned",
        task_aware: bool = True,
        distil: float = 1.0,
        width: int = 64,
        assembly: str | None = None,
    ) -> None:
        super().__init__()
        if not budgets or not all(0 < b <= 1 for b in budgets):
            raise ValueError(f"method.budgets={list(budgets)}: expected shares above 0 and up to 1")
        if slices < 1:
            raise ValueError(f"method.slices={slices}: expected at least 1")
        if choice not in CHOICES:
            raise ValueError(f"method.choice={choice!r}: expected one of {', '.join(CHOICES)}")
        if not 0 <= distil < float("inf"):
            raise ValueError(f"method.distil={distil}: expected a finite number of at least 0")
        if width < 1:
            raise ValueError(f"method.width={width}: expected at least 1")
        if assembly is not None and (not assembly or set(assembly) - {"0", "1"}):
            raise ValueError(f"method.assembly={assembly!r}: expected a 0 or 1 for each module, or null")
        self.sizes = tuple(sorted(budgets, reverse=True))
        self.slices, self.choice, self.task_aware, self.distil, self.width = slices, choice, task_aware, distil, width
        self.assembly = assembly
        self._student: Tap | None = None
        self._plain = False  # what `assembly` leaves is a plain network; known once adapted

    @property
    def equals_base(self) -> bool:
        return self.sizes[0] == 1 if self.assembly is None else "0" not in self.assembly

    @property
    def budgets(self) -> tuple[float, ...]:
        return self.sizes if self.assembly is None else ()

    def check(self, backbone: Backbone) -> None:
        self._find_modules(backbone)

    def _find_modules(self, backbone: Backbone) -> list[Module]:
        modules = find_modules(backbone, self.slices)
        if self.assembly is not None and len(self.assembly) != len(modules):
            raise ValueError(f"method.assembly={self.assembly!r}: expected {len(modules)} digits, one for each module")
        return modules

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        modules = self._find_modules(backbone)
        if self.assembly is not None:
            keep = [digit == "1" for digit in self.assembly]
            self._plain = reduce_network(backbone, modules, self.slices, keep)
        super().adapt(backbone, routing, tasks)
        if self.assembly is not None:
            return
        device = next(backbone.denoiser.parameters()).device
        rule: dict[str, Any] = {"rule": self.choice, "task_aware": self.task_aware}
        assembler = Assembler(modules, routing, len(tasks), device, whole=self.sizes[0], width=self.width, **rule)
        install_gates(backbone, modules, self.slices, assembler.choice)
        assembler.attach(backbone.denoiser)

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        assembler = find_assembler(backbone.denoiser)
        learned = assembler is not None and assembler.layers is not None and assembler.task_aware
        rows: list[nn.Parameter] = [assembler.embedding.weight] if learned else []  # type: ignore[union-attr,list-item]
        return [*super().task_parameters(backbone), *rows]

    # Training

    def draw_condition(self, condition: Condition, seeds: Sequence[int]) -> Condition:
        """Give every sample a budget by the sandwich rule, from its own seed."""
        if self.assembly is not None:
            return condition
        u = torch.cat([torch.rand(1, generator=torch_rng(seed, "budget")) for seed in seeds]).double()
        return replace(condition, budget=draw_budgets(u, self.sizes).to(condition.source.device))

    def teach(
        self,
        backbone: Backbone,
        read_base: Callable[[], Backbone],
        read_teacher: Callable[[], Teaching] | None = None,
    ) -> None:
        if self.distil and len(self.budgets) > 1:
            (self._student,) = tap_all([backbone.denoiser])

    def extra_errors(self, backbone: Backbone, noisy: Tensor, t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        assembler = find_assembler(backbone.denoiser)
        if self._student is None or assembler is None or condition.budget is None:
            return {}
        student = self._student.take()[:, : noisy.shape[1]]
        with torch.no_grad():
            wanted = self._predict_largest(assembler, backbone, noisy, t, condition)
        self._student.take()  # the largest one's own
        return {"distil/largest": self.distil * mean_square(student, wanted)}

    def _predict_largest(
        self, assembler: Assembler, backbone: Backbone, noisy: Tensor, t: Tensor, condition: Condition
    ) -> Tensor:
        """(B, C, h, w) at the largest budget. Gates and routing stay as they were: a backward pass may read them."""
        routing, before = assembler.routing, assembler.choice.read()
        largest = condition.limit(self.sizes[0])

        def predict(packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
            routing.write(condition.task, t, largest.budget)
            return backbone.predict(packed, t, condition)

        try:
            return self.layout(predict, noisy, t, condition)
        finally:
            routing.write(condition.task, t, condition.budget)
            assembler.choice.write(*before)

    # Networks that are left

    def assembly_options(self, options: Mapping[str, Any], keep: Sequence[bool]) -> dict[str, Any]:
        if self.assembly is not None:
            return super().assembly_options(options, keep)
        return {**options, "assembly": "".join("01"[on] for on in keep)}

    def assemble(self, backbone: Backbone, keep: Sequence[bool], task: int) -> None:
        assembler = find_assembler(backbone.denoiser)
        if assembler is None:
            super().assemble(backbone, keep, task)
            return
        leave_alone(backbone, assembler)
        reduce_network(backbone, assembler.plan, self.slices, keep)
        fold_time(backbone, task)
        for site in backbone.sites("input"):
            assert isinstance(site.module, TaskConv2d)
            for name, value in list(site.module.named_parameters()):
                setattr(site.module, name, nn.Parameter(value.detach()[task : task + 1]))

    def fold(self, backbone: Backbone, task: int) -> None:
        """At the largest budget, if a configuration of diffusers can say what is left."""
        assembler = find_assembler(backbone.denoiser)
        plain = self._plain
        if assembler is not None:
            keep, _ = assembler.propose(task, self.sizes[0])
            trial = copy_structure(backbone)
            leave_alone(trial, find_assembler(trial.denoiser))
            plain = reduce_network(trial, assembler.plan, self.slices, keep)
        if not plain:
            raise CannotFold("a network without some blocks and slices is no configuration of diffusers")
        if assembler is not None:
            leave_alone(backbone, assembler)
            reduce_network(backbone, assembler.plan, self.slices, keep)
        super().fold(backbone, task)


def draw_budgets(u: Tensor, sizes: Sequence[float]) -> Tensor:
    """Budgets (B,) for u (B,) in [0, 1), by the sandwich rule. sizes: falling."""
    largest, smallest = u < 0.25, (u >= 0.25) & (u < 0.5)
    any_size = ((u - 0.5).clamp_min(0) * 2 * len(sizes)).long()
    places = torch.where(largest, 0, torch.where(smallest, len(sizes) - 1, any_size))
    return torch.tensor(sizes)[places]


def leave_alone(backbone: Backbone, assembler: Assembler | None) -> None:
    """Take gates and assembler away, in place."""
    remove_gates(backbone.denoiser)
    if assembler is not None:
        assembler.detach(backbone.denoiser)
