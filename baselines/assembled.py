"""Model assembly of A-SDM (arXiv 2406.00210): a base without some of its parts, tuned whole and taught by the base.

    loss = task * error + output * |e - e_base|^2 + feature * mean over stages |f - f_base|^2

The paper gives neither the parts nor the losses. Decided here: `drop` names parts that a configuration of diffusers can
do without (`Backbone.drops`), so that what is left folds and exports as any plain network; experiments/rank_drops.py
orders them by what the base's prediction loses at once. The terms are BK-SDM's (2305.15798), whose weights are 1 each.
The teacher is the untouched base, which has not seen the task's source and knows the picture by its caption alone; or
`teacher`, a finished run on the same base, such as a fine-tuned whole network, which has learnt the tasks.

`start=random` throws the base's weights away and keeps its shape alone: what they are worth to the lighter network.

`kernels` above 1 gives capacity back: every convolution of a residual block gets so many kernels (`cond_conv`).

Without drops, terms and kernels this is `Finetune`, whose recipe the rest follows.
"""

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any, Literal

import torch
from torch import Tensor, nn

from baselines.cond_conv import ROUTES, MixedConv2d
from baselines.distillation import Teacher
from baselines.finetune import Finetune
from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import CannotFold
from mtdiff.methods.routing import Routing
from mtdiff.methods.teaching import Teaching
from mtdiff.types import Condition

TERMS = ("task", "output", "feature")
STARTS = ("base", "random")


class Assembled(Finetune):
    """drop: parts of the base that go. distil: weights of the loss's terms, 0 where not named; null: the task's alone.

    normalise: feature terms over the mean square of the teacher's features. kernels, route: of ME-CondConv, 1 for none.
    start: of the weights, the base's or drawn anew. teacher: folder of a run in place of the base; `distil` uses it.
    """

    def __init__(
        self,
        drop: Sequence[str] = (),
        distil: Mapping[str, float] | None = None,
        normalise: bool = False,
        kernels: int = 1,
        route: Literal["task", "task_time", "features"] = "task",
        start: Literal["base", "random"] = "base",
        teacher: str | None = None,
    ) -> None:
        super().__init__()
        if len(set(drop)) < len(drop):
            raise ValueError(f"method.drop={list(drop)}: expected each part once")
        for name, weight in (distil or {}).items():
            if name not in TERMS:
                raise ValueError(f"method.distil={name}: expected one of {', '.join(TERMS)}")
            if not (isfinite(weight) and weight >= 0):
                raise ValueError(f"method.distil.{name}={weight}: expected a finite number of at least 0")
        if distil is not None and not any(distil.values()):
            raise ValueError(f"method.distil={dict(distil)}: expected a weight above 0, or null")
        if kernels < 1:
            raise ValueError(f"method.kernels={kernels}: expected at least 1")
        if route not in ROUTES:
            raise ValueError(f"method.route={route!r}: expected one of {', '.join(ROUTES)}")
        if start not in STARTS:
            raise ValueError(f"method.start={start!r}: expected one of {', '.join(STARTS)}")
        if teacher is not None and not any((distil or {}).get(term) for term in TERMS[1:]):
            raise ValueError(f"method.teacher={teacher}: expected null without method.distil.output or .feature")
        self.start = start
        self.drop, self.normalise, self.kernels, self.route = tuple(drop), normalise, kernels, route
        self.terms = {"task": 1.0} if distil is None else dict(distil)
        self._pairs: dict[str, str] = {}
        self._teacher: Teacher | None = None

    @property
    def equals_base(self) -> bool:
        return not self.drop and self.start == "base"

    def check(self, backbone: Backbone) -> None:
        there = backbone.drops()
        for name in self.drop:
            if name not in there:
                allowed = f"expected one of {', '.join(there)}" if there else "this base has no parts to drop"
                raise ValueError(f"method.drop={name}: {allowed}")
        if self.kernels > 1 and not backbone.convolutions():
            raise ValueError(f"method.kernels={self.kernels}: expected 1, this base has no residual convolutions")

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        self.check(backbone)
        names = {id(module): name for name, module in backbone.stages().items()}
        actions = backbone.drops()
        for part in self.drop:
            actions[part]()
        if self.start == "random":
            draw_weights(backbone.denoiser)
        self._pairs = {name: names.get(id(module), name) for name, module in backbone.stages().items()}
        for site in backbone.convolutions() if self.kernels > 1 else []:
            assert isinstance(site.module, nn.Conv2d)
            site.replace(MixedConv2d(site.module, self.kernels, len(tasks), self.route, routing))
        super().adapt(backbone, routing, tasks)

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        mixed = [m for m in backbone.denoiser.modules() if isinstance(m, MixedConv2d)]
        return [*super().task_parameters(backbone), *(m.task_embedding for m in mixed if m.task_embedding is not None)]

    @property
    def error_weight(self) -> float:
        return self.terms.get("task", 0.0)

    def teach(
        self,
        backbone: Backbone,
        read_base: Callable[[], Backbone],
        read_teacher: Callable[[], Teaching] | None = None,
    ) -> None:
        if not (self.terms.get("output") or self.terms.get("feature")):
            return
        if read_teacher is None:
            base = read_base()
            teaching = Teaching(base, base.predict)
        else:
            teaching = read_teacher()
            self.check_teacher(teaching)
        self._teacher = Teacher(teaching, backbone, self._pairs)

    def check_teacher(self, teaching: Teaching) -> None:
        """Refuse a run whose network cannot be compared with this one, stage by stage."""
        if type(teaching.layout) is not type(self.layout):
            raise ValueError(
                "method.teacher: lays pictures out otherwise, expected a run that sees sources as channels"
            )
        missing = sorted(set(self._pairs.values()) - set(teaching.backbone.stages()))
        if missing:
            raise ValueError(
                f"method.teacher: is without {missing[0]}, expected a run that has every stage of this one"
            )

    def extra_errors(self, backbone: Backbone, noisy: Tensor, t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        teacher = self._teacher
        if teacher is None:
            return {}
        prediction, found = teacher.predict(noisy, t, condition), {}
        output, features = teacher.output_error(prediction), list(teacher.feature_errors(self.normalise))
        if weight := self.terms.get("output"):
            found["distil/output"] = weight * output
        if weight := self.terms.get("feature"):
            found["distil/feature"] = weight * sum(features, output.new_zeros(())) / len(features)
        return found

    def fold(self, backbone: Backbone, task: int) -> None:
        if self.kernels > 1 and self.route != "task":
            raise CannotFold(f"method.route={self.route}: a kernel of its own for every picture or time of a task")
        for site in backbone.convolutions() if self.kernels > 1 else []:
            assert isinstance(site.module, MixedConv2d)
            site.replace(site.module.fold(task))
        super().fold(backbone, task)


@torch.no_grad()
def draw_weights(network: nn.Module) -> None:
    """Give a diffusers network the weights that one of its configuration starts with, in place."""
    made: Any = network
    with torch.device(next(network.parameters()).device):
        fresh = type(made).from_config(made.config)
    network.load_state_dict(fresh.state_dict())
