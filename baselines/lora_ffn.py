"""LoRA on the feed-forward projections (arXiv 2106.09685), the MTU paper's parameter-efficient row (2503.11905).

y = x (W + (alpha / r) B_k A_k)^T + b, with k the sample's task. Trained: A, B (with DoRA the row lengths too) and the
task-wise input convolution, the same as MTU's; all else is frozen.

Not given in the paper, decided here: rank 16, alpha 16, no dropout. `per_task=False` (one adapter for all tasks), DoRA
(2402.09353) and other `targets` are variants of ours. `baselines.peft_layers` says why not `peft`'s own layers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import Tensor, nn

from baselines.peft_layers import add_lora, additions, check_lora, check_targets, fold_linears
from baselines.peft_merge import merge_lora
from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import Method, fold_input, widen_input
from mtdiff.methods.merging import CannotMerge, Rule
from mtdiff.methods.routing import Routing


class LoraFFN(Method):
    """rank r and alpha as in `peft`. targets: which layers. per_task: an adapter for each task, else one for all."""

    def __init__(
        self,
        rank: int = 16,
        alpha: float = 16.0,
        dropout: float = 0.0,
        use_dora: bool = False,
        per_task: bool = True,
        targets: Sequence[Literal["ffn", "self_attention", "cross_attention"]] = ("ffn",),
    ) -> None:
        check_lora(rank, alpha, dropout)
        self.options: dict[str, Any] = {"rank": rank, "alpha": alpha, "dropout": dropout, "dora": use_dora}
        self.per_task, self.targets = per_task, check_targets(targets)

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        add_lora(backbone, self.targets, len(tasks) if self.per_task else 1, routing, **self.options)
        widen_input(backbone, self.layout.extra_channels(backbone.latent_shape[0]), len(tasks), routing)

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        rows = super().task_parameters(backbone)
        return [*rows, *additions(backbone)] if self.per_task else rows

    def merge_options(self, options: Mapping[str, Any], parts: int) -> dict[str, Any]:
        """One adapter for all tasks, whose rank is the sum of the parts'."""
        if self.options["dora"]:
            raise CannotMerge("method.use_dora=true: peft merges no row lengths, expected false")
        rank, alpha = parts * self.options["rank"], self.options["alpha"]
        return {**options, "rank": rank, "alpha": alpha if alpha == rank else float(rank), "per_task": False}

    def merge(
        self, start: Mapping[str, Tensor], trained: Sequence[Mapping[str, Tensor]], rule: Rule
    ) -> dict[str, Tensor]:
        return merge_lora(start, trained, rule)

    def fold(self, backbone: Backbone, task: int) -> None:
        fold_linears(backbone, task)
        fold_input(backbone, task)
