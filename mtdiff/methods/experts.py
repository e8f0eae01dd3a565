"""The feed-forward layer upcycled to experts, of MTU (arXiv 2503.11905): one pair of matrix products for all of them.

Letters: B batch, L tokens, C width, M hidden units, N experts, M' hidden units of one, T tasks, K values and gates
(2 in GEGLU, else 1).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from diffusers.models.activations import GEGLU
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from mtdiff.backbones.base import Site
from mtdiff.methods.geglu_loop import one_by_one
from mtdiff.methods.routing import Routing

SPREAD = 0.1  # of a hidden unit's copies about their mean
LARGE = 2**20
"""Hidden values L * M of one sample from which a CPU works in parts that its caches hold."""
MANY = 4
"""Tokens per channel from which samples one by one beat experts one by one (measured: at 1.6 they do not, at 12.8 they
do)."""
Way = Literal["at_once", "by_sample", "by_expert"]


@dataclass(frozen=True)
class ExpertOptions:
    """As `MTU` takes them; by_time: the router looks at the time too; random: no unit starts as the layer's own."""

    experts: int
    granularity: float
    top_k: int | None
    rescale: bool
    per_expert_norm: bool
    by_time: bool
    router_width: int
    random: bool = False


class Experts(nn.Module):
    """A diffusers `FeedForward` upcycled to N experts. x (B, L, C) -> (B, L, C).

    `net` keeps the layer's own modules: activation (C -> M units), dropout, output product (M -> C).
    """

    def __init__(
        self, ff: nn.Module, name: str, options: ExpertOptions, routing: Routing, embedding: nn.Embedding
    ) -> None:
        super().__init__()
        net = ff.get_submodule("net")
        assert isinstance(net, nn.ModuleList)
        self.net, self.routing, self.top_k, self.experts = net, routing, options.top_k, options.experts
        self._embedding = (embedding,)  # read, not owned: it belongs to the whole network
        self.by_time = options.by_time
        out = self.output
        self.units = out.in_features
        each = self.units * options.granularity
        if abs(each - round(each)) > 1e-6 or round(each) < 1:
            divisors = [n for n in range(1, 33) if self.units % n == 0]
            raise ValueError(
                f"method.experts={options.experts}, granularity={options.granularity:g}: {self.units} hidden units of "
                f"{name} do not divide; experts that do: {divisors}"
            )
        self.each = round(each)
        self.scale = 1 / options.granularity if options.rescale else 1.0
        if self.each * self.experts != self.units:
            take_units(net, self.each * self.experts)
        if options.random:
            for layer in ends(net):
                layer.reset_parameters()
        if options.per_expert_norm:
            projection, _ = ends(net)
            parts = projection.out_features // out.in_features
            net[0].proj = ExpertInput(projection, parts, embedding.num_embeddings, self.experts, routing)
        self.bias: nn.Parameter | None = (
            None if out.bias is None else nn.Parameter(out.bias.detach().repeat(self.experts, 1))
        )  # (N, C)
        out.register_parameter("bias", None)
        if self.experts > 1:
            self.router = router(embedding.embedding_dim, options.router_width, self.experts, out.weight.device)

    @property
    def output(self) -> nn.Linear:
        out = self.net[2]
        assert isinstance(out, nn.Linear)
        return out

    def gates(self, task: Tensor, t: Tensor | None = None) -> Tensor:
        """w (B, N), rows sum to 1, for task ids (B,) and, where the router looks at them, times (B,)."""
        if self.experts == 1:
            return self.output.weight.new_ones(len(task), 1)
        w = self.router(self.read(task, t)).softmax(-1)
        if self.top_k is None or self.top_k == self.experts:
            return w
        best = w.argsort(dim=-1, descending=True, stable=True)[:, : self.top_k]
        kept = torch.zeros_like(w).scatter(1, best, 1.0) * w
        return kept / kept.sum(1, keepdim=True)

    def read(self, task: Tensor, t: Tensor | None) -> Tensor:
        """What the router reads, (B, width of the task embedding)."""
        (embedding,) = self._embedding
        rows = embedding(task)
        if self.by_time and t is not None:
            rows = rows + get_timestep_embedding(t, embedding.embedding_dim).to(rows.dtype)
        return rows

    def reached_units(self, task: Tensor, t: Tensor) -> Tensor:
        """Which of the router's hidden units (width,) bool are above zero for at least one of the rows."""
        return (self.router[:2](self.read(task, t)) > 0).any(0)

    def forward(self, x: Tensor) -> Tensor:
        if self.experts == 1 and self.scale == 1:
            bias = None if self.bias is None else self.bias[0]
            out = nn.functional.linear(self.hidden(x), self.output.weight, bias)  # (B, L, C)
        else:
            w = self.gates(self.routing.task, self.routing.t)  # (B, N)
            out = self.mix(x, self.scale * w, self.way(x))
            if self.bias is not None:
                out = out + (w @ self.bias).unsqueeze(1).to(out.dtype)
        for dropout in self.net[3:]:
            out = dropout(out)
        return out

    def hidden(self, x: Tensor) -> Tensor:
        """(B, L, C) -> (B, L, N * M')."""
        return self.net[1](self.net[0](x))

    def way(self, x: Tensor) -> Way:
        """How `mixed` goes about it, by device and shape alone; the result is the same but for rounding.

        A GPU, or small samples: at once. On a CPU the hidden units of many large samples leave its caches, and the
        memory's speed decides: then one sample after another where tokens are many beside channels, so that a sample's
        own output weight is the smaller thing to scale, and else one expert after another (GEGLU alone).
        """
        tokens, width = x.shape[1:]
        if x.device.type != "cpu" or tokens * self.each * self.experts < LARGE:
            return "at_once"
        whole = isinstance(self.net[0].get_submodule("proj"), ExpertInput)  # it reads the task of every sample
        dropout = self.net[1]
        drops = self.training and isinstance(dropout, nn.Dropout) and dropout.p > 0
        if tokens < MANY * width and isinstance(self.net[0], GEGLU) and not whole and not drops:
            return "by_expert"
        return "by_sample" if tokens >= width and not whole else "at_once"

    def mix(self, x: Tensor, w: Tensor, way: Way) -> Tensor:
        """sum_i w_i E_i(x) without output biases, for the weights w (B, N) of every sample. (B, L, C) -> (B, L, C)."""
        weight = self.output.weight  # (C, N * M')
        if way == "by_sample":
            by_expert, w = weight.unflatten(-1, (self.experts, self.each)), w.to(weight.dtype)  # (C, N, M')
            scaled = ((by_expert * row.unsqueeze(1)).flatten(-2) for row in w)
            return torch.stack([nn.functional.linear(self.hidden(s), v) for s, v in zip(x, scaled, strict=True)])
        if way == "by_expert":
            projection, _ = ends(self.net)
            return one_by_one(x, projection.weight, projection.bias, weight, w)
        hidden = self.hidden(x)
        return self.weigh(hidden, w.to(hidden.dtype))

    def weigh(self, hidden: Tensor, w: Tensor) -> Tensor:
        """The output product of hidden units (B, L, N * M') scaled by their experts' w (B, N), -> (B, L, C)."""
        weight = self.output.weight
        if hidden.shape[1] > 2 * len(weight):  # many tokens: each sample's weight is smaller than its hidden units
            scaled = weight.unflatten(-1, (self.experts, self.each)) * w[:, None, :, None]  # (B, C, N, M')
            return torch.bmm(hidden, scaled.flatten(-2).mT)
        scaled = hidden.unflatten(-1, (self.experts, self.each)) * w[:, None, :, None]  # (B, L, N, M')
        return nn.functional.linear(scaled.flatten(-2), weight)

    def cannot_fold(self, site: Site) -> str | None:
        """Why one task's experts are no feed-forward layer of the base's shape; None where they are."""
        if self.each * self.experts != self.units:
            width = f"{self.experts} experts of {self.each} units"
            return f"with {width} has feed-forward layers of another width than the base's {self.units}"
        if self.by_time:
            return "with router_input=task_timestep has weights that change with the timestep"
        projection = self.net[0].get_submodule("proj")
        if isinstance(projection, ExpertInput) and projection.bias is None:
            return f"with per_expert_norm has shifts where the base's {site.name} has no bias"
        return None

    @torch.no_grad()
    def fold(self, task: int) -> nn.Module:
        """The plain feed-forward layer of one task: w goes into the output product, gains into the first one."""
        old = self.output.weight
        w = self.gates(torch.tensor([task], device=old.device))[0].to(old.dtype)
        out = nn.utils.skip_init(nn.Linear, old.shape[1], old.shape[0], self.bias is not None, device=old.device)
        out.weight = nn.Parameter(old * (self.scale * w).repeat_interleave(self.each))
        if self.bias is not None:
            out.bias = nn.Parameter(w @ self.bias)
        activation = self.net[0]
        projection = activation.get_submodule("proj")
        if isinstance(projection, ExpertInput):
            activation.proj = projection.fold(task)
        plain = FeedForward(1, inner_dim=1)
        plain.net = nn.ModuleList([activation, self.net[1], out, *self.net[3:]])
        return plain


class ExpertInput(nn.Module):
    """The first product of a feed-forward layer, each expert behind a gain and shift of its own per task.

    x (B, L, C) -> (B, L, K * M). weight, bias: the product's own. gain, shift (T, N, C) start at 1 and 0.
    """

    def __init__(self, linear: nn.Linear, parts: int, tasks: int, experts: int, routing: Routing) -> None:
        super().__init__()
        self.routing, self.parts, self.experts = routing, parts, experts
        self.weight, self.bias = linear.weight, linear.bias
        self.gain = nn.Parameter(linear.weight.new_ones(tasks, experts, linear.in_features))
        self.shift = nn.Parameter(linear.weight.new_zeros(tasks, experts, linear.in_features))

    def by_expert(self) -> Tensor:
        """The weight as (K, N, M', C)."""
        return self.weight.unflatten(0, (self.parts, self.experts, -1))

    def forward(self, x: Tensor) -> Tensor:
        gain, shift = (p[self.routing.task].unsqueeze(2) for p in (self.gain, self.shift))  # (B, N, 1, C)
        seen = torch.addcmul(shift, x.unsqueeze(1), gain)  # (B, N, L, C)
        hidden = torch.einsum("bnlc,knmc->blknm", seen, self.by_expert()).flatten(2)
        return hidden if self.bias is None else hidden + self.bias.to(hidden.dtype)

    def fold(self, task: int) -> nn.Linear:
        """The plain product of one task."""
        weight = self.by_expert()  # (K, N, M', C)
        gained, shifted = (weight * p[task].unsqueeze(1) for p in (self.gain, self.shift))
        out, width = self.weight.shape
        linear = nn.utils.skip_init(nn.Linear, width, out, device=weight.device)
        linear.weight = nn.Parameter(gained.reshape(out, width))
        linear.bias = nn.Parameter(self.bias + shifted.sum(-1).flatten())
        return linear


def router(embedding_width: int, width: int, experts: int, device: torch.device) -> nn.Sequential:
    """Two-layer ReLU MLP whose last layer is zero: the softmax over its logits starts uniform."""
    last = nn.Linear(width, experts, device=device)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(embedding_width, width, device=device), nn.ReLU(), last)


def ends(net: nn.ModuleList) -> tuple[nn.Linear, nn.Linear]:
    """First and last product of a feed-forward layer."""
    projection, out = net[0].get_submodule("proj"), net[2]
    assert isinstance(projection, nn.Linear)
    assert isinstance(out, nn.Linear)
    return projection, out


@torch.no_grad()
def take_units(net: nn.ModuleList, number: int) -> None:
    """Rebuild a feed-forward layer from its hidden units in their order, over and over, until there are `number`.

    The output weights of a unit's copies are spread about the unit's own by SPREAD of it, with their mean kept: copies
    that were all alike would get the same gradient for ever.
    """
    projection, out = ends(net)
    old = out.in_features
    units = torch.arange(number, device=out.weight.device) % old  # (number,)
    parts = projection.out_features // old  # 2 with a gate (value rows, then gate rows), else 1
    rows = torch.cat([units + part * old for part in range(parts)])
    projection.weight = nn.Parameter(projection.weight[rows])
    if projection.bias is not None:
        projection.bias = nn.Parameter(projection.bias[rows])
    copied = out.weight[:, units]
    spread = torch.randn_like(copied)
    copies = (number // old + (units[:old] < number % old)) if number >= old else 1
    mean = torch.zeros_like(out.weight).index_add_(1, units, spread) / copies
    out.weight = nn.Parameter(copied * (1 + SPREAD * (spread - mean[:, units])))
    projection.out_features, out.in_features = len(rows), number
