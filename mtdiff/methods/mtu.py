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
- one learning rate for all, as far as the paper tells; `router_rate` (routers and task embeddings), `norm_rate` (task
  norms, and gains and shifts) and `input_rate` (input convolutions) are factors of it. Where the rate is far above the
  paper's 1e-4, the routers' ReLU units die and tasks get the same weights, so a report tells the share that lives;
- widths of the task embedding and of the router: free, 64 each, small beside the experts (768 each would give the
  paper's parameter counts for SD 1.5).
Ours, not the paper's: `router_input="task_timestep"` adds the sinusoidal embedding of the time to e_task.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import nn

from mtdiff.backbones.base import Backbone, Site
from mtdiff.methods.base import CannotFold, Method, fold_input, widen_input
from mtdiff.methods.experts import ExpertInput, ExpertOptions, Experts
from mtdiff.methods.merging import CannotMerge
from mtdiff.methods.routing import Routing
from mtdiff.methods.taskwise import TaskLayerNorm

EMBEDDING = "mtu_task_embedding"
TIMES = 10  # at which a report asks routers that look at the time


class MTU(Method):
    """experts N; granularity G = expert width / feed-forward width (None: 1/N, which keeps the parameter count).

    top_k: only the k largest weights, renormalised (the paper's ablation). None: all experts, as published.
    rescale: divide w by G. per_expert_norm: a gain and shift per (task, expert) after the block's own, frozen norm, in
    place of one LayerNorm per task. router_input: what the router looks at. router_rate, norm_rate, input_rate:
    factors of the learning rate for routers and task embeddings, for task norms, and for input convolutions. start:
    experts are slices of the layer, as published, or drawn at random, the control of what slices are worth.
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
        router_rate: float = 1.0,
        norm_rate: float = 1.0,
        input_rate: float = 1.0,
        start: Literal["slices", "random"] = "slices",
    ) -> None:
        if experts < 1:
            raise ValueError(f"method.experts={experts}: expected at least 1")
        if top_k is not None and not 1 <= top_k <= experts:
            raise ValueError(f"method.top_k={top_k}: expected 1 to experts={experts}, or null for all")
        if granularity is not None and granularity <= 0:
            raise ValueError(f"method.granularity={granularity}: expected a positive number, or null for 1/experts")
        if router_input not in ("task", "task_timestep"):
            raise ValueError(f"method.router_input={router_input!r}: expected 'task' or 'task_timestep'")
        if start not in ("slices", "random"):
            raise ValueError(f"method.start={start!r}: expected 'slices' or 'random'")
        for key, rate in (("router_rate", router_rate), ("norm_rate", norm_rate), ("input_rate", input_rate)):
            if not 0 <= rate < float("inf"):
                raise ValueError(f"method.{key}={rate}: expected a finite number of at least 0")
        self.embedding_width, self.rates = embedding_width, (router_rate, norm_rate, input_rate)
        self._norms: tuple[str, ...] = ()  # names of modules, known once adapted
        self._inputs: tuple[str, ...] = ()
        self.options = ExpertOptions(
            experts,
            1 / experts if granularity is None else granularity,
            top_k,
            rescale,
            per_expert_norm,
            router_input == "task_timestep",
            router_width,
            start == "random",
        )

    @property
    def equals_base(self) -> bool:
        """True where the slices cover every hidden unit equally often, and the weights are rescaled and complete."""
        o = self.options
        if o.random:
            return False
        cover = o.experts * o.granularity
        complete = o.top_k is None or o.top_k == o.experts
        return (o.rescale or o.granularity == 1) and complete and abs(cover - round(cover)) < 1e-9

    def rate(self, name: str) -> float:
        of_routers, of_norms, of_inputs = self.rates
        if ".router." in name or EMBEDDING in name:
            return of_routers
        if name.startswith(self._norms) or name.endswith((".proj.gain", ".proj.shift")):
            return of_norms
        return of_inputs if name.startswith(self._inputs) else 1.0

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        device = next(backbone.denoiser.parameters()).device
        embedding = nn.Embedding(len(tasks), self.embedding_width, device=device)
        if self.options.experts > 1:
            backbone.denoiser.add_module(EMBEDDING, embedding)
        for site in backbone.sites("ffn"):
            self._upcycle(site, routing, embedding)
            if site.norm is not None:
                self._norms += (f"{site.norm.name}.",)
        self._inputs = tuple(f"{site.name}." for site in backbone.sites("input"))
        widen_input(backbone, self.layout.extra_channels(backbone.latent_shape[0]), len(tasks), routing)

    def _upcycle(self, site: Site, routing: Routing, embedding: nn.Embedding) -> None:
        experts = Experts(site.module, site.name, self.options, routing, embedding)
        site.replace(experts.requires_grad_(True))
        if not self.options.per_expert_norm and site.norm is not None and isinstance(site.norm.module, nn.LayerNorm):
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

    @torch.no_grad()
    def report(self, backbone: Backbone, tasks: Sequence[str]) -> dict[str, Any]:
        """The experts' weights w by block and task; over evenly spaced times where the router looks at the time.

        router_alive: share of the routers' ReLU units that some task reaches. summary: the same in words.
        """
        router: dict[str, Any] = {}
        reached: list[torch.Tensor] = []
        steps = backbone.scheduler.config.num_train_timesteps
        for site in backbone.sites("ffn"):
            assert isinstance(site.module, Experts)
            device = site.module.output.weight.device
            t = torch.linspace(0, steps - 1, TIMES if self.options.by_time else 1, device=device)
            ids = torch.arange(len(tasks), device=device).repeat_interleave(len(t))
            w = site.module.gates(ids, t.repeat(len(tasks))).unflatten(0, (len(tasks), len(t))).mean(1)  # (T, N)
            if self.options.experts > 1:
                reached.append(site.module.reached_units(ids, t.repeat(len(tasks))))
            router[site.name] = {k: [round(x, 4) for x in row] for k, row in zip(tasks, w.tolist(), strict=True)}
        if not reached:
            return {"router": router}
        alive = float(torch.cat(reached).float().mean())
        summary = f"routers: {alive:.0%} of their ReLU units are alive"
        return {"router": router, "router_alive": round(alive, 4), "summary": summary}

    def merge_options(self, options: Mapping[str, Any], parts: int) -> dict[str, Any]:
        if self.options.experts > 1:
            raise CannotMerge(f"method.experts={self.options.experts}: routers cannot be merged, expected 1")
        return dict(options)

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
        if self.options.experts > 1:
            delattr(backbone.denoiser, EMBEDDING)
