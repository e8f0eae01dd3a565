"""MTU: every feed-forward layer upcycled to experts that a task-wise router mixes (arXiv 2503.11905, ICML 2025).

FFN(x) = sum_i w_i(task, block) E_i(LN_task(x)), all experts run; w = softmax(router(e_task)).

Expert i starts as the i-th slice of the pre-trained layer's hidden units (value rows, gate rows and output columns of
the same units), so all experts together are one feed-forward layer whose hidden units are scaled by w: one pair of
matrix products, also for a batch that mixes tasks. Trained: experts, routers, task embeddings, task LayerNorms, task
input convolutions; all else is frozen. There is no load balancing.

Not given in the paper, decided here:
- the softmax starts uniform (the router's last layer is zero), and w is divided by the granularity, so that the block
  starts equal to the pre-trained one; `rescale=False` is the ablation;
- where experts repeat hidden units (N G > 1), the copies' output weights are spread about the unit's own, by a tenth of
  it, with their mean kept: the block still starts equal, and copies and gates can part (alike, they never would);
- each expert has an output bias, copied, which w mixes to the original at the start;
- one LayerNorm per (task, block), starting from the block's own; `per_expert_norm` is the ablation;
- top-k keeps the first of equal weights;
- widths of the task embedding and of the router: free, 64 each, small beside the experts.
Ours, not the paper's: `router_input="task_timestep"` adds the sinusoidal embedding of the time to e_task.

Letters: B batch, L tokens, C width, M hidden units, N experts, T tasks, K values and gates (2 in GEGLU, else 1).
"""

from collections.abc import Sequence
from typing import Literal

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone, Site
from mtdiff.methods.base import CannotFold, Method, fold_input
from mtdiff.routing import Routing, TaskLayerNorm

EMBEDDING = "mtu_task_embedding"
SPREAD = 0.1


class MTU(Method):
    """experts N; granularity G = expert width / feed-forward width (None: 1/N, which keeps the parameter count).

    top_k: only the k largest weights, renormalised (the paper's ablation). None: all experts, as published.
    rescale: divide w by G. per_expert_norm: a gain and shift per (task, expert) after the block's own, frozen norm, in
    place of one LayerNorm per task. router_input: what the router looks at.
    """

    def __init__(
        self,
        experts: int = 4,
        granularity: float | None = None,
        top_k: int | None = None,
        rescale: bool = True,
        per_expert_norm: bool = False,
        router_input: Literal["task", "task_timestep"] = "task",
        embedding_width: int = 64,
        router_width: int = 64,
    ) -> None:
        if experts < 1:
            raise ValueError(f"method.experts={experts}: expected at least 1")
        if top_k is not None and not 1 <= top_k <= experts:
            raise ValueError(f"method.top_k={top_k}: expected 1 to experts={experts}, or null for all")
        if granularity is not None and granularity <= 0:
            raise ValueError(f"method.granularity={granularity}: expected a positive number, or null for 1/experts")
        if router_input not in ("task", "task_timestep"):
            raise ValueError(f"method.router_input={router_input!r}: expected 'task' or 'task_timestep'")
        self.experts, self.top_k, self.rescale = experts, top_k, rescale
        self.granularity = 1 / experts if granularity is None else granularity
        self.per_expert_norm, self.by_time = per_expert_norm, router_input == "task_timestep"
        self.embedding_width, self.router_width = embedding_width, router_width

    @property
    def equals_base(self) -> bool:
        """True where the slices cover every hidden unit equally often, and the weights are rescaled and complete."""
        cover = self.experts * self.granularity
        complete = self.top_k is None or self.top_k == self.experts
        return (self.rescale or self.granularity == 1) and complete and abs(cover - round(cover)) < 1e-9

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        device = next(backbone.denoiser.parameters()).device
        embedding = nn.Embedding(len(tasks), self.embedding_width, device=device)
        if self.experts > 1:
            backbone.denoiser.add_module(EMBEDDING, embedding)
        for site in backbone.sites("ffn"):
            self._upcycle(site, routing, embedding)
        backbone.widen_input(self.layout.extra_channels(backbone.latent_shape[0]), len(tasks), routing)

    def _upcycle(self, site: Site, routing: Routing, embedding: nn.Embedding) -> None:
        experts = Experts(site.module, site.name, self, routing, embedding)
        site.replace(experts.requires_grad_(True))
        if not self.per_expert_norm and site.norm is not None and isinstance(site.norm.module, nn.LayerNorm):
            tasks, device = embedding.num_embeddings, embedding.weight.device
            site.norm.replace(TaskLayerNorm(site.norm.module, tasks, routing, device))

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        rows = super().task_parameters(backbone)
        for name, module in backbone.denoiser.named_modules():
            if isinstance(module, ExpertInput):
                rows += [module.gain, module.shift]
            elif name == EMBEDDING:
                rows += module.parameters()
        return rows

    def fold(self, backbone: Backbone, task: int) -> None:
        sites = [(site, site.module) for site in backbone.sites("ffn")]
        for site, experts in sites:
            assert isinstance(experts, Experts)
            if reason := experts.cannot_fold(site):
                raise CannotFold(f"MTU {reason}")
        for site, experts in sites:
            assert isinstance(experts, Experts)
            site.replace(experts.fold(task))
            if site.norm is not None and isinstance(site.norm.module, TaskLayerNorm):
                site.norm.replace(site.norm.module.fold(task))
        fold_input(backbone, task)
        if self.experts > 1:
            delattr(backbone.denoiser, EMBEDDING)


class Experts(nn.Module):
    """A diffusers `FeedForward` upcycled to N experts. x (B, L, C) -> (B, L, C).

    `net` keeps the layer's own modules: activation (C -> M units), dropout, output product (M -> C).
    """

    def __init__(self, ff: nn.Module, name: str, method: MTU, routing: Routing, embedding: nn.Embedding) -> None:
        super().__init__()
        net = ff.get_submodule("net")
        assert isinstance(net, nn.ModuleList)
        self.net, self.routing, self.top_k, self.experts = net, routing, method.top_k, method.experts
        self._embedding = (embedding,)  # read, not owned: it belongs to the whole network
        self.by_time = method.by_time
        out = self.output
        self.units = out.in_features
        each = self.units * method.granularity
        if abs(each - round(each)) > 1e-6 or round(each) < 1:
            options = [n for n in range(1, 33) if self.units % n == 0]
            raise ValueError(
                f"method.experts={method.experts}, granularity={method.granularity:g}: {self.units} hidden units of "
                f"{name} do not divide; experts that do: {options}"
            )
        self.each = round(each)
        self.scale = 1 / method.granularity if method.rescale else 1.0
        if self.each * self.experts != self.units:
            take_units(net, self.each * self.experts)
        if method.per_expert_norm:
            projection, _ = ends(net)
            parts = projection.out_features // out.in_features
            net[0].proj = ExpertInput(projection, parts, embedding.num_embeddings, self.experts, routing)
        self.bias: nn.Parameter | None = (
            None if out.bias is None else nn.Parameter(out.bias.detach().repeat(self.experts, 1))
        )  # (N, C)
        out.register_parameter("bias", None)
        if self.experts > 1:
            self.router = router(embedding.embedding_dim, method.router_width, self.experts, out.weight.device)

    @property
    def output(self) -> nn.Linear:
        out = self.net[2]
        assert isinstance(out, nn.Linear)
        return out

    def gates(self, task: Tensor, t: Tensor | None = None) -> Tensor:
        """w (B, N), rows sum to 1, for task ids (B,) and, where the router looks at them, times (B,)."""
        if self.experts == 1:
            return torch.ones(len(task), 1, device=task.device)
        (embedding,) = self._embedding
        rows = embedding(task)  # (B, width of the task embedding)
        if self.by_time and t is not None:
            rows = rows + get_timestep_embedding(t, embedding.embedding_dim)
        w = self.router(rows).softmax(-1)
        if self.top_k is None or self.top_k == self.experts:
            return w
        best = w.argsort(dim=-1, descending=True, stable=True)[:, : self.top_k]
        kept = torch.zeros_like(w).scatter(1, best, 1.0) * w
        return kept / kept.sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net[0](x)  # (B, L, N * M')
        w = None
        if self.experts > 1 or self.scale != 1:
            w = self.gates(self.routing.task, self.routing.t).to(hidden.dtype)
            scaled = hidden.unflatten(-1, (self.experts, self.each)) * (self.scale * w)[:, None, :, None]
            hidden = scaled.flatten(-2)
        out = self.output(self.net[1](hidden))  # (B, L, C)
        if self.bias is not None:
            out = out + (self.bias[0] if w is None else (w @ self.bias.to(w.dtype))[:, None])
        for dropout in self.net[3:]:
            out = dropout(out)
        return out

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
