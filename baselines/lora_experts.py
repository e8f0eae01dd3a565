"""MTU's mixture (arXiv 2503.11905) on LoRA experts (2106.09685): a router a block mixes low-rank updates by the task.

y = x W^T + b + (alpha / R) sum_i N w_i x A_i^T B_i^T, with w = softmax(router(e_task)) and R = N r, the ranks together.
Both products of a block's feed-forward layer share its router. Trained: A_i, B_i, routers, task embeddings and the
task-wise input convolution; all else is frozen.

Not published in this form, decided here: routers as MTU's (their last layers start at zero), so that at the start w is
uniform, and N w_i = 1 makes it a LoRA of rank R for all tasks, which `lora_ffn per_task=false` is. B starts at zero, so
training starts equal to the base.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from baselines.peft_layers import AdaptedLinear, check_lora, fold_linears, linears
from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import Method, fold_input, widen_input
from mtdiff.methods.experts import router
from mtdiff.methods.routing import Routing

EMBEDDING, ROUTER = "lora_task_embedding", "lora_router"


class ExpertLora(AdaptedLinear):
    """x (B, L, I) -> (B, L, O). lora_a (N r, I), lora_b (O, N r): all experts one below the other, as one product.

    gates: task ids (B,) -> w (B, N).
    """

    def __init__(
        self, linear: nn.Linear, tasks: int, routing: Routing, experts: int, rank: int, alpha: float, gates: Any
    ):
        super().__init__(linear, tasks, routing)
        out, width = linear.weight.shape
        self.scale, self.each, self.experts = alpha / rank, rank // experts, experts
        self._gates = (gates,)  # read, not owned: they belong to the block
        self.lora_a = nn.Parameter(linear.weight.new_empty(rank, width).uniform_(-(width**-0.5), width**-0.5))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(out, rank))

    def weigh(self, task: Tensor) -> Tensor:
        """What the N r hidden units are multiplied by, (B, N r)."""
        (gates,) = self._gates
        return self.scale * self.experts * gates(task).repeat_interleave(self.each, dim=1)

    def forward(self, x: Tensor) -> Tensor:
        low = nn.functional.linear(x, self.lora_a)  # (B, L, N r)
        low = low * self.weigh(self.routing.task).unsqueeze(1).to(low.dtype)
        return nn.functional.linear(x, self.weight, self.bias) + nn.functional.linear(low, self.lora_b)

    def merge(self, adapter: int) -> tuple[Tensor, Tensor | None]:
        w = self.weigh(torch.tensor([adapter], device=self.weight.device))[0]  # (N r,)
        return self.weight + (self.lora_b * w) @ self.lora_a, self.bias


class Gates(nn.Module):
    """The router of one block. task ids (B,) -> weights of the experts (B, N), rows sum to 1."""

    def __init__(self, embedding: nn.Embedding, width: int, experts: int) -> None:
        super().__init__()
        self._embedding = (embedding,)  # of the whole network
        self.router = router(embedding.embedding_dim, width, experts, embedding.weight.device)

    def forward(self, task: Tensor) -> Tensor:
        (embedding,) = self._embedding
        return self.router(embedding(task)).softmax(-1)


class LoraExperts(Method):
    """experts N; rank R of all of them together; alpha as in `peft`. embedding_width, router_width: as in MTU.

    router_rate: factor of the learning rate for routers and task embeddings.
    """

    def __init__(
        self,
        experts: int = 4,
        rank: int = 16,
        alpha: float = 16.0,
        embedding_width: int = 64,
        router_width: int = 64,
        router_rate: float = 1.0,
    ) -> None:
        check_lora(rank, alpha)
        if experts < 1 or rank % experts:
            raise ValueError(f"method.experts={experts}: expected a whole number from 1 that divides rank={rank}")
        if not 0 <= router_rate < float("inf"):
            raise ValueError(f"method.router_rate={router_rate}: expected a finite number of at least 0")
        self.experts, self.rank, self.alpha, self.router_rate = experts, rank, alpha, router_rate
        self.embedding_width, self.router_width = embedding_width, router_width

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        device = next(backbone.denoiser.parameters()).device
        embedding = nn.Embedding(len(tasks), self.embedding_width, device=device)
        backbone.denoiser.add_module(EMBEDDING, embedding)
        for block, (_, layers) in zip(backbone.sites("ffn"), list(linears(backbone, ["ffn"])), strict=True):
            gates = Gates(embedding, self.router_width, self.experts)
            for site in layers:
                assert isinstance(site.module, nn.Linear)
                made = ExpertLora(site.module, len(tasks), routing, self.experts, self.rank, self.alpha, gates)
                site.replace(made)
            block.module.add_module(ROUTER, gates)
        widen_input(backbone, self.layout.extra_channels(backbone.latent_shape[0]), len(tasks), routing)

    def rate(self, name: str) -> float:
        return self.router_rate if f".{ROUTER}." in name or EMBEDDING in name else 1.0

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        return [*super().task_parameters(backbone), *backbone.denoiser.get_submodule(EMBEDDING).parameters()]

    @torch.no_grad()
    def report(self, backbone: Backbone, tasks: Sequence[str]) -> dict[str, Any]:
        """The experts' weights w by block and task."""
        ids = torch.arange(len(tasks), device=next(backbone.denoiser.parameters()).device)
        found = {site.name: site.module.get_submodule(ROUTER)(ids).tolist() for site in backbone.sites("ffn")}
        rounded = {name: [[round(x, 4) for x in row] for row in rows] for name, rows in found.items()}
        return {"router": {name: dict(zip(tasks, rows, strict=True)) for name, rows in rounded.items()}}

    def fold(self, backbone: Backbone, task: int) -> None:
        fold_linears(backbone, task)
        for site in backbone.sites("ffn"):
            delattr(site.module, ROUTER)
        delattr(backbone.denoiser, EMBEDDING)
        fold_input(backbone, task)
