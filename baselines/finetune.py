"""Full fine-tuning, for one task or for all of them at once: the yardstick of every other method.

Joint: one network for all tasks, which tells them apart by the task-wise input convolution, the same as MTU's, and by a
task embedding added to the time embedding, e(t) + u_task; u starts at zero. With a single task there is no u, and the
method is the recipe of MTU's single-task rows (arXiv 2503.11905).

Trained: everything, or the `parts` named (MTU's motivation compares them), always with the input convolution and u.
The paper describes no jointly fine-tuned network; where u enters is decided here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone, Site
from mtdiff.methods.base import Method, fold_input, widen_input
from mtdiff.methods.routing import Routing

PARTS = ("all", "ffn", "self_attention", "cross_attention")


class Finetune(Method):
    """parts: what is trained. task_embedding: u, where there is more than one task."""

    def __init__(
        self,
        parts: Sequence[Literal["all", "ffn", "self_attention", "cross_attention"]] = ("all",),
        task_embedding: bool = True,
    ) -> None:
        if not parts or not set(parts) <= set(PARTS):
            raise ValueError(f"method.parts={list(parts)}: expected one or more of {', '.join(PARTS)}")
        self.parts, self.task_embedding = tuple(parts), task_embedding

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        for part in self.parts:
            places = [backbone.denoiser] if part == "all" else [site.module for site in backbone.sites(part)]
            for place in places:
                place.requires_grad_(True)
        if self.task_embedding and len(tasks) > 1:
            for site in time_sites(backbone):
                assert isinstance(site.module, nn.Linear)
                site.replace(TaskBias(site.module, len(tasks), routing))
        widen_input(backbone, self.layout.extra_channels(backbone.latent_shape[0]), len(tasks), routing)

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        biases = [m.task_bias for m in backbone.denoiser.modules() if isinstance(m, TaskBias)]
        return [*super().task_parameters(backbone), *biases]

    def merge_options(self, options: Mapping[str, Any], parts: int) -> dict[str, Any]:
        return dict(options)

    def fold(self, backbone: Backbone, task: int) -> None:
        fold_time(backbone, task)
        fold_input(backbone, task)


def fold_time(backbone: Backbone, task: int) -> None:
    """Leave one task's time embedding, in place."""
    for module in list(backbone.denoiser.modules()):
        for child, layer in module.named_children():
            if isinstance(layer, TaskBias):
                module.add_module(child, layer.fold(task))


def time_sites(backbone: Backbone) -> list[Site]:
    """The last product of the time embedding: the first `TimestepEmbedding` of a diffusers network.

    Where that one belongs to a block (DiT's), every block has its own.
    """
    found = [(name, m) for name, m in backbone.denoiser.named_modules() if isinstance(m, TimestepEmbedding)]
    if not found:
        raise ValueError(f"method.task_embedding: {type(backbone.denoiser).__name__} has no time embedding")
    pattern = re.sub(r"[0-9]+", "[0-9]+", found[0][0])
    return [
        Site(f"{name}.linear_2", module, "linear_2", module.linear_2.weight.shape[1])
        for name, module in found
        if re.fullmatch(pattern, name)
    ]


class TaskBias(nn.Module):
    """A linear layer plus one vector per task. x (B, I) -> (B, O); weight, bias: the layer's own; task_bias (T, O)."""

    def __init__(self, linear: nn.Linear, tasks: int, routing: Routing) -> None:
        super().__init__()
        self.weight, self.bias, self.routing = linear.weight, linear.bias, routing
        self.task_bias = nn.Parameter(linear.weight.new_zeros(tasks, linear.out_features))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.linear(x, self.weight, self.bias)
        return y + self.task_bias[self.routing.task].to(y.dtype)

    @torch.no_grad()
    def fold(self, task: int) -> nn.Linear:
        out, width = self.weight.shape
        linear = nn.utils.skip_init(nn.Linear, width, out, device=self.weight.device)
        linear.weight, linear.bias = self.weight, nn.Parameter(self.bias + self.task_bias[task])
        return linear
