"""Linear layers with small additions that are trained while the layer itself is frozen: LoRA, DoRA, (IA)^3.

Each holds one adapter, or one per task; the samples of a batch then use their own task's, gathered by its id, with no
loop over tasks. `peft`'s own layers loop, and refuse DoRA in a mixed batch; ours equal its merged model (tests).
The frozen weight keeps the layer's own name in the state dict.

Letters: B batch, L tokens, I width in, O width out, A adapters (1 or the number of tasks), r rank.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone, Site, SiteKind
from mtdiff.methods.routing import Routing

TARGETS: tuple[SiteKind, ...] = ("ffn", "self_attention", "cross_attention")


class AdaptedLinear(nn.Module, ABC):
    """x (B, L, I) -> (B, L, O). weight (O, I), bias (O,): the layer's own, frozen."""

    def __init__(self, linear: nn.Linear, adapters: int, routing: Routing) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self.adapters, self.routing = adapters, routing

    def chosen(self, parameter: Tensor) -> Tensor:
        """Each sample's own adapter: (A, ...) -> (B, ...); one shared adapter -> (1, ...)."""
        return parameter if self.adapters == 1 else parameter[self.routing.task]

    def additions(self) -> list[nn.Parameter]:
        """The trained parameters; the adapter is their first axis."""
        return [p for name, p in self.named_parameters() if name not in ("weight", "bias")]

    @abstractmethod
    def merge(self, adapter: int) -> tuple[Tensor, Tensor | None]:
        """Weight (O, I) and bias (O,) of the plain layer that equals this one under one adapter."""

    @torch.no_grad()
    def fold(self, task: int) -> nn.Linear:
        weight, bias = self.merge(task if self.adapters > 1 else 0)
        out, width = weight.shape
        linear = nn.utils.skip_init(nn.Linear, width, out, bias is not None, device=weight.device)
        linear.weight = nn.Parameter(weight.clone())
        if bias is not None:
            linear.bias = nn.Parameter(bias.clone())
        return linear


class LoraLinear(AdaptedLinear):
    """y = x W^T + b + (alpha / r) dropout(x) A^T B^T (arXiv 2106.09685). A starts as `peft` draws it, B at zero.

    dora (arXiv 2402.09353): rows of W + (alpha / r) B A are brought to learned lengths, which start as those of W; the
    lengths of the sum are constants in the backward pass. Dropout acts on the low-rank path alone.
    """

    def __init__(
        self, linear: nn.Linear, adapters: int, routing: Routing, rank: int, alpha: float, dropout: float, dora: bool
    ) -> None:
        super().__init__(linear, adapters, routing)
        out, width = linear.weight.shape
        self.scale, self.dropout = alpha / rank, nn.Dropout(dropout)
        self.lora_a = nn.Parameter(linear.weight.new_empty(adapters, rank, width).uniform_(-(width**-0.5), width**-0.5))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(adapters, out, rank))
        self.length = nn.Parameter(linear.weight.detach().norm(dim=1).repeat(adapters, 1)) if dora else None

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.chosen(self.lora_a), self.chosen(self.lora_b)
        low = self.dropout(x) @ a.mT @ (self.scale * b).mT  # (B, L, O)
        if self.length is None:
            return nn.functional.linear(x, self.weight, self.bias) + low
        gain = self.chosen(self.length / self.row_lengths()).unsqueeze(1).to(low.dtype)  # (B, 1, O)
        y = gain * (nn.functional.linear(x, self.weight) + low)
        return y if self.bias is None else y + self.bias.to(y.dtype)

    @torch.no_grad()
    def row_lengths(self) -> Tensor:
        """Lengths of the rows of W + s B A, (A, O), without forming it: |w|^2 + 2 s b.(A w) + s^2 b.(A A^T) b."""
        b = self.scale * self.lora_b  # (A, O, r)
        cross = (b * (self.weight @ self.lora_a.mT)).sum(-1)
        square = ((b @ (self.lora_a @ self.lora_a.mT)) * b).sum(-1)
        return (self.weight.square().sum(1) + 2 * cross + square).sqrt()

    def merge(self, adapter: int) -> tuple[Tensor, Tensor | None]:
        weight = self.weight + self.scale * self.lora_b[adapter] @ self.lora_a[adapter]
        if self.length is not None:
            weight = weight * (self.length[adapter] / weight.norm(dim=1)).unsqueeze(1)
        return weight, self.bias


class ScaledLinear(AdaptedLinear):
    """(IA)^3 (arXiv 2205.05638): the input (side="in") or the whole output times a vector that starts at 1."""

    def __init__(self, linear: nn.Linear, adapters: int, routing: Routing, side: str) -> None:
        super().__init__(linear, adapters, routing)
        self.on_input = side == "in"
        width = linear.in_features if self.on_input else linear.out_features
        self.ia3 = nn.Parameter(linear.weight.new_ones(adapters, width))

    def forward(self, x: Tensor) -> Tensor:
        vector = self.chosen(self.ia3).unsqueeze(1)  # (B, 1, I) or (B, 1, O)
        if self.on_input:
            return nn.functional.linear(x * vector.to(x.dtype), self.weight, self.bias)
        y = nn.functional.linear(x, self.weight, self.bias)
        return y * vector.to(y.dtype)

    def merge(self, adapter: int) -> tuple[Tensor, Tensor | None]:
        vector = self.ia3[adapter]
        if self.on_input:
            return self.weight * vector, self.bias
        return self.weight * vector.unsqueeze(1), None if self.bias is None else self.bias * vector


def add_lora(
    backbone: Backbone,
    kinds: Sequence[SiteKind],
    adapters: int,
    routing: Routing,
    *,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    dora: bool = False,
) -> None:
    """LoRA on every linear layer of the sites of some kinds."""
    for _, layers in linears(backbone, kinds):
        for site in layers:
            assert isinstance(site.module, nn.Linear)
            site.replace(LoraLinear(site.module, adapters, routing, rank, alpha, dropout, dora))


def check_lora(rank: int, alpha: float, dropout: float = 0.0) -> None:
    if rank < 1:
        raise ValueError(f"method.rank={rank}: expected at least 1")
    if alpha <= 0:
        raise ValueError(f"method.alpha={alpha}: expected a positive number")
    if not 0 <= dropout < 1:
        raise ValueError(f"method.dropout={dropout}: expected at least 0 and less than 1")


def check_targets(targets: Sequence[SiteKind]) -> tuple[SiteKind, ...]:
    """The kinds of places that take an adapter, in a fixed order."""
    if not targets or not set(targets) <= set(TARGETS):
        raise ValueError(f"method.targets={list(targets)}: expected one or more of {', '.join(TARGETS)}")
    return tuple(kind for kind in TARGETS if kind in targets)


def linears(backbone: Backbone, kinds: Sequence[SiteKind]) -> Iterator[tuple[SiteKind, list[Site]]]:
    """The linear layers of every site of some kinds, in their order within the site."""
    for kind in kinds:
        for site in backbone.sites(kind):
            yield kind, list(list_below(site.module, site.name, nn.Linear))


def fold_linears(backbone: Backbone, task: int) -> None:
    """Put plain layers in place of all adapted ones."""
    for site in list(list_below(backbone.denoiser, "", AdaptedLinear)):
        assert isinstance(site.module, AdaptedLinear)
        site.replace(site.module.fold(task))


def additions(backbone: Backbone) -> list[nn.Parameter]:
    """Trained parameters of all adapted layers."""
    layers = (m for m in backbone.denoiser.modules() if isinstance(m, AdaptedLinear))
    return [p for layer in layers for p in layer.additions()]


def list_below(root: nn.Module, prefix: str, kind: type[nn.Module]) -> Iterator[Site]:
    """Modules of one kind in the order in which they are defined."""
    for name, module in root.named_modules():
        if isinstance(module, kind):
            parent, _, attribute = name.rpartition(".")
            path, (_, width) = f"{prefix}.{name}" if prefix else name, module.weight.shape  # type: ignore[misc, union-attr]
            yield Site(path, root.get_submodule(parent), attribute, int(width))  # type: ignore[has-type]
