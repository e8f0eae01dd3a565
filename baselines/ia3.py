"""(IA)^3 (arXiv 2205.05638), the MTU paper's other parameter-efficient row (2503.11905, on attention and FFN).

keys * l_k, values * l_v, and the feed-forward layer's hidden units * l_ff, each a learned vector of the sample's task
that starts at 1. Trained: the vectors and the task-wise input convolution, the same as MTU's; all else is frozen.

In a gated feed-forward layer the hidden units are those after the gate, the input of the last product, which is where
`peft` puts its feed-forward vector. `per_task=False` (one set of vectors for all tasks) is a variant of ours.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from baselines.peft_layers import ScaledLinear, additions, check_targets, fold_linears, linears
from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import Method, fold_input, widen_input
from mtdiff.methods.routing import Routing

# diffusers' names in every attention layer, and of the text's own keys and values in joint attention
KEYS_AND_VALUES = ("to_k", "to_v", "add_k_proj", "add_v_proj")


class IA3(Method):
    """targets: which layers. per_task: vectors per task, else one set for all."""

    def __init__(
        self,
        targets: Sequence[Literal["ffn", "self_attention", "cross_attention"]] = (
            "ffn",
            "self_attention",
            "cross_attention",
        ),
        per_task: bool = True,
    ) -> None:
        self.targets, self.per_task = check_targets(targets), per_task

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        adapters = len(tasks) if self.per_task else 1
        for kind, layers in linears(backbone, self.targets):
            ffn = kind == "ffn"
            for site in layers[-1:] if ffn else [s for s in layers if s.attribute in KEYS_AND_VALUES]:
                assert isinstance(site.module, nn.Linear)
                site.replace(ScaledLinear(site.module, adapters, routing, "in" if ffn else "out"))
        widen_input(backbone, self.layout.extra_channels(backbone.latent_shape[0]), len(tasks), routing)

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        rows = super().task_parameters(backbone)
        return [*rows, *additions(backbone)] if self.per_task else rows

    def fold(self, backbone: Backbone, task: int) -> None:
        fold_linears(backbone, task)
        fold_input(backbone, task)
