"""The process of MT-Diffusion (arXiv 2407.17571): a masked picture and a label aggregated with the picture.

z_t = sqrt(abar_t) z_0 + sum_i atil_t E_i(x_i) + sqrt(1 - abar_t) eps      (atil_t: `Diffusion.aggregate`)

A drawing replaces what is unknown by the heads' current output at every step, and plugs in what is known.

Letters: B batch, C latent channels, L labels, h w latent size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from baselines.joint_heads import Heads
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.methods.process import Answers, Course, Held, Process
from mtdiff.types import LABEL_TIMES, Condition

MASKED, LABEL, PICTURE = "joint_masked", "joint_label", "joint_picture"
"""Names in `Condition.extra`. masked (B,): 1 where the source is a masked picture of the answer, 2 where that one is
asked for. label (B,): a class from 1, or -1 where it is asked for. picture (B, C, h, w): the answer, where it is known.
Zeros: the sample has none of it."""


@dataclass(frozen=True)
class Given:
    """What a batch brings: states of both modalities (B,) int64, and what is mixed of each as far as it is known.

    latent (B, C, h, w): of the masked picture. shares (B, L): of the labels.
    """

    masked: Tensor
    label: Tensor
    latent: Tensor
    shares: Tensor

    @classmethod
    def of(cls, condition: Condition, classes: int) -> "Given":
        nothing = torch.zeros_like(condition.task)
        masked, label = (condition.extra.get(name, nothing) for name in (MASKED, LABEL))
        latent = condition.source * (masked == 1).view(-1, 1, 1, 1)
        shares = label.view(-1, 1) == torch.arange(1, classes + 1, device=label.device)  # (B, L); one_hot would wait
        return cls(masked, label, latent, shares.to(latent))


def check_labels(largest: int, classes: int) -> None:
    """Refuse a label that there is no room for."""
    if largest > classes:
        raise ValueError(f"method.classes={classes}: expected at least the number of labels, {largest}")


class JointProcess(Process):
    """sees: the network has the masked picture as its source too (-X). truth: what was mixed last."""

    def __init__(self, diffusion: Diffusion, heads: Heads, sees: bool, strength: float) -> None:
        self.diffusion, self.heads, self.sees, self.strength = diffusion, heads, sees, strength
        self.truth: Given | None = None

    def encode(self, latent: Tensor, shares: Tensor) -> Tensor:
        """The sum of E_i(x_i), (B, C, h, w): the identity, and the mean code of the labels."""
        return latent + (shares @ self.heads.codes.to(shares))[..., None, None]

    def weigh(self, t: Tensor) -> Tensor:
        return self.diffusion.aggregate(t, self.strength)

    def mix(self, noisy: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Condition]:
        self.truth = given = Given.of(condition, len(self.heads.codes))
        return noisy + self.weigh(t) * self.encode(given.latent, given.shares), self.hide(condition, given)

    def hide(self, condition: Condition, given: Given) -> Condition:
        """Without the masked picture as a source, where the network is not to see it (-U)."""
        if self.sees:
            return condition
        kept = (given.masked == 0).view(-1, 1, 1, 1).to(condition.source)
        return replace(condition, source=condition.source * kept, mask=1 - (1 - condition.mask) * kept)

    def start(self, condition: Condition) -> "JointCourse":
        if LABEL in condition.extra:
            check_labels(int(condition.extra[LABEL].max()), len(self.heads.codes))
        given = Given.of(condition, len(self.heads.codes))
        held = None
        if PICTURE in condition.extra and (rows := condition.extra[PICTURE].flatten(1).any(1)).any():
            held = Held(rows, condition.extra[PICTURE])
        return JointCourse(self, given, self.hide(condition, given), held)


class JointCourse(Course):
    """Begins with zeros for what is unknown, so the first call sees the plain noisy latent there."""

    def __init__(self, process: JointProcess, given: Given, condition: Condition, held: Held | None) -> None:
        self.process, self.given, self.condition, self.held = process, given, condition, held
        self._latent, self._shares = given.latent, given.shares
        self._numbers: dict[str, Tensor] = {}

    def mix(self, plain: Tensor, t: Tensor) -> Tensor:
        return plain + self.process.weigh(t) * self.process.encode(self._latent, self._shares)

    def part(self, mixed: Tensor, t: Tensor) -> Tensor:
        return mixed - self.process.weigh(t) * self.process.encode(self._latent, self._shares)

    def guess(self, rows: Tensor, t: Tensor) -> None:
        heads, wanted = self.process.heads, (self.given.masked == 2, self.given.label == -1)
        drawn = heads.read_picture(*self._latent.shape[-2:])[rows]
        shares = heads.read_label()[rows].softmax(-1)
        self._latent = torch.where(wanted[0].view(-1, 1, 1, 1), drawn.to(self._latent), self._latent)
        self._shares = torch.where(wanted[1].view(-1, 1), shares.to(self._shares), self._shares)
        label = (shares.argmax(-1) + 1) * wanted[1]  # (B,)
        for level in LABEL_TIMES:
            if f"label_{level}" not in self._numbers and float(t) <= level / 100 * self.process.diffusion.steps:
                self._numbers[f"label_{level}"] = label
        self._numbers["label"] = label

    def answer(self) -> Answers:
        asked = (self.given.masked == 2).view(-1, 1, 1, 1)
        return Answers({"masked": (self._latent * asked).clone()}, {k: v.clone() for k, v in self._numbers.items()})
