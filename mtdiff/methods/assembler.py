"""The assembler of NN-Factory (arXiv 2308.15003): from a task and a budget to the modules of a supernet to use.

    logits = MLP(e_task, b)        on = the first modules, best logit first, whose cost stays within b

Only the paper's abstract is public; the network and the choice are decided here:
- a slice ranks no better than the block it lies in, so it never comes before that block;
- modules are taken in their order, and one that no longer fits is left out;
- all logits start from an order that thins every kind of module evenly over the depth, the same for all tasks;
- straight through: the gradient of a gate is that of its logit's sigmoid (Bengio et al., arXiv 1308.3432).

Letters: B batch, M modules, T tasks, W width of an embedding.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mtdiff.methods.gates import Choice
from mtdiff.methods.routing import Routing
from mtdiff.methods.supernet import Module

Rule = Literal["learned", "uniform", "random"]
NAME = "assembler"
ROUNDING = 1e-6  # of a sum of shares


class Assembler(nn.Module):
    """Writes the gates of every call. whole: the budget of calls that name none.

    rule: `learned`; `uniform`: every kind of module thinned evenly; `random`: an order that is drawn once. task_aware:
    whether the learned logits see the task.
    """

    def __init__(
        self,
        modules: Sequence[Module],
        routing: Routing,
        tasks: int,
        device: torch.device,
        *,
        whole: float = 1.0,
        rule: Rule = "learned",
        task_aware: bool = True,
        width: int = 64,
    ) -> None:
        super().__init__()
        self.plan, self.routing, self.choice, self.whole = tuple(modules), routing, Choice(), whole
        self.task_aware, number = task_aware, len(modules)
        self.pinned: list[bool] | None = None  # in place of any choice, for all samples
        self.hook: RemovableHandle | None = None
        start = torch.tensor(rank_evenly(modules), device=device)
        self.layers: nn.Sequential | None = None
        if rule == "learned":
            last = nn.Linear(width, number, device=device)
            nn.init.zeros_(last.weight)
            last.bias = nn.Parameter(start)
            self.embedding = nn.Embedding(tasks if task_aware else 1, width, device=device)
            self.layers = nn.Sequential(nn.Linear(width + 1, width, device=device), nn.ReLU(), last)
        else:
            order = start if rule == "uniform" else torch.rand(number, device=device)
            self.register_buffer("order", order)

    def attach(self, denoiser: nn.Module) -> None:
        """Become a part of the network, whose gates are written whenever it is called."""
        denoiser.add_module(NAME, self)
        self.hook = denoiser.register_forward_pre_hook(self.write_gates)

    def detach(self, denoiser: nn.Module) -> None:
        """Leave the network."""
        assert self.hook is not None
        self.hook.remove()
        delattr(denoiser, NAME)

    def write_gates(self, network: nn.Module, arguments: Any) -> None:
        """A hook before the denoiser's forward: the gates of the samples that the routing tells of."""
        task, budget = self.routing.task, self.routing.budget
        if self.pinned is not None:
            self.choice.write(None, self.pinned)
            return
        if task.is_meta:  # no values to look at: costs are counted for the modules that training starts with
            self.choice.write(None, self.propose_evenly(self.whole))
            return
        everything = [True] * len(self.plan)
        if budget is None and self.whole >= 1 and not self.differentiates():
            self.choice.write(None, everything)
            return
        if budget is None:
            budget = torch.full(task.shape, self.whole, device=task.device)
        gates = self(task, budget)
        self.choice.write(gates, None if gates.requires_grad else find_common(gates))

    def differentiates(self) -> bool:
        """Whether a call made now carries gradients to the logits."""
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())

    def forward(self, task: Tensor, budget: Tensor) -> Tensor:
        """task (B,), budget (B,) -> gates (B, M), each 0 or 1."""
        logits = self.rank(task, budget)
        soft = logits.sigmoid()
        hard = self.choose(logits.detach(), budget).to(soft.dtype)
        return hard + (soft - soft.detach()) if soft.requires_grad else hard

    def rank(self, task: Tensor, budget: Tensor) -> Tensor:
        """Logits (B, M), of which a larger one is taken first."""
        if self.layers is None:
            return self.order.expand(len(task), -1)  # type: ignore[operator]
        rows = self.embedding(task if self.task_aware else torch.zeros_like(task))  # (B, W)
        with exact(rows.device):
            return self.layers(torch.cat([rows, budget.to(rows.dtype).unsqueeze(1)], 1))

    def choose(self, logits: Tensor, budget: Tensor) -> Tensor:
        """Which modules are on, (B, M) bool, for logits (B, M) and budgets (B,)."""
        device = logits.device
        parents = torch.tensor([k if m.parent is None else m.parent for k, m in enumerate(self.plan)], device=device)
        blocks = torch.tensor([m.parent is None for m in self.plan], device=device)
        shares = torch.tensor([m.share for m in self.plan], dtype=torch.float64, device=device)
        limited = torch.minimum(logits, logits[:, parents])
        order = limited.argsort(dim=1, descending=True, stable=True)  # of equal ones blocks come first
        on = torch.zeros_like(limited, dtype=torch.bool)
        left = budget.double() - (1 - shares.sum()) + ROUNDING  # (B,)
        for k in order.T:  # (B,): the next module of each sample
            there = blocks[k] | on.gather(1, parents[k].unsqueeze(1)).squeeze(1)
            fits = there & (shares[k] <= left)
            left = left - shares[k] * fits
            on = on.scatter(1, k.unsqueeze(1), fits.unsqueeze(1))
        return on

    def propose_evenly(self, budget: float) -> list[bool]:
        """The modules within a budget in the order from which logits start."""
        logits, limit = (torch.tensor([row], device="cpu") for row in (rank_evenly(self.plan), budget))
        return self.choose(logits, limit)[0].tolist()

    def propose(self, task: int, budget: float) -> tuple[list[bool], list[float]]:
        """What it chooses for one task, and the logits that it chose by."""
        device = next(iter([*self.parameters(), *self.buffers()])).device
        with torch.no_grad():
            ids, limit = torch.tensor([task], device=device), torch.tensor([budget], device=device)
            logits = self.rank(ids, limit)
            return self.choose(logits, limit)[0].tolist(), logits[0].tolist()


def exact(device: torch.device) -> AbstractContextManager[None]:
    """No lower precision inside: it would change which modules are on."""
    available = torch.amp.autocast_mode.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def find_assembler(denoiser: nn.Module) -> Assembler | None:
    """The assembler of a denoising network; None where it is no supernet."""
    return next((module for module in denoiser.children() if isinstance(module, Assembler)), None)


def find_common(gates: Tensor) -> list[bool] | None:
    """The row of gates (B, M) that all samples share, or None."""
    rows = (gates > 0.5).tolist()
    return rows[0] if all(row == rows[0] for row in rows) else None


def rank_evenly(modules: Sequence[Module]) -> list[float]:
    """A start in [-1, 1] for every logit: any first part of the order has the same share of every kind.

    Blocks are spread over the depth by the golden ratio's multiples; of a layer's slices the first come first.
    """
    found = [0.0] * len(modules)
    for kind in ("transformer", "residual", "slice"):
        places = [k for k, m in enumerate(modules) if m.kind == kind]
        for n, k in enumerate(places):
            if kind == "slice":
                mates = [i for i in places if modules[i].name.partition("#")[0] == modules[k].name.partition("#")[0]]
                position = (mates.index(k) + 0.5) / len(mates)
            else:
                position = (n * 0.6180339887498949 + 0.5) % 1.0
            found[k] = 1 - 2 * position
    return found
