"""ONE-PIC: source and target drawn as one picture, so that fine-tuning looks like pre-training (arXiv 2412.05619).

Every task is the prediction of the missing part of a picture: the source is the left half of a canvas of double width,
the noisy target the right half; text-to-image has the target alone. No module, branch or loss is added: the loss is the
prediction error of the target. Trained: LoRA on attention and feed-forward layers, shared by all tasks (`train="full"`:
everything). The task is told by the text and the source alone.

Its cost is honest: twice the tokens, where there is a source.

The code is not public. Not given in the paper, decided here: left and right; the source's latent is kept clean at every
step, in training and in sampling (`noise_context=True` noises it to the target's level: ablation); the loss covers the
target (`loss_region="all"`: the noised source too, as VisualCloze's released code has it: ablation); no mask channel, a
hole is seen as the blank it is; rank 16, alpha 16.
"""

from collections.abc import Sequence
from typing import Literal

from baselines.peft_layers import TARGETS, add_lora, check_lora, fold_linears
from mtdiff.backbones.base import Backbone
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.methods.base import CannotFold, Method
from mtdiff.methods.layout import Canvas, Layout
from mtdiff.methods.routing import Routing

TRAINS = ("lora", "full")
REGIONS = ("target", "all")


class OnePic(Method):
    """train: LoRA of `rank` and `alpha`, or everything. noise_context: noise the source as the target is noised.

    loss_region: the target, or all of the canvas, which needs noise_context.
    """

    def __init__(
        self,
        train: Literal["lora", "full"] = "lora",
        rank: int = 16,
        alpha: float = 16.0,
        noise_context: bool = False,
        loss_region: Literal["target", "all"] = "target",
    ) -> None:
        if train not in TRAINS:
            raise ValueError(f"method.train={train!r}: expected one of {', '.join(TRAINS)}")
        if loss_region not in REGIONS:
            raise ValueError(f"method.loss_region={loss_region!r}: expected one of {', '.join(REGIONS)}")
        if loss_region == "all" and not noise_context:
            raise ValueError("method.loss_region=all: needs method.noise_context=true, else no source is hidden")
        check_lora(rank, alpha)
        self.train, self.rank, self.alpha, self.noise_context = train, rank, alpha, noise_context
        self.loss_region = loss_region
        self._layout = Canvas()

    @property
    def equals_base(self) -> bool:
        """The base on a canvas is the base, but not what it predicts for the target alone."""
        return False

    @property
    def layout(self) -> Layout:
        return self._layout

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        if self.noise_context:
            self._layout = Canvas(Diffusion(backbone.scheduler), self.loss_region == "all")
        if self.train == "full":
            backbone.denoiser.requires_grad_(True)
        else:
            add_lora(backbone, TARGETS, 1, routing, rank=self.rank, alpha=self.alpha)

    def fold(self, backbone: Backbone, task: int) -> None:
        raise CannotFold("ONE-PIC draws on a canvas of double width, which no plain pipeline lays out")

    def simplify(self, backbone: Backbone, task: int) -> None:
        fold_linears(backbone, task)
