"""What a method may add to the diffusion process: modalities that are mixed into the noisy latent beside the picture.

Training asks a method's `Process` to mix what an example brings. A drawing asks it for a `Course`, which mixes what is
known or guessed so far before each call of the network, and takes it out again for the sampler's own step.

Letters: B batch, K predictions in all, C latent channels, h w latent size.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from mtdiff.types import Condition


@dataclass(frozen=True)
class Answers:
    """What a drawing says beside its pictures.

    latents: pictures of other modalities by name, (B, C, h, w), zeros where none was asked for.
    numbers: by name, (B,) int64, 0 where none was asked for.
    """

    latents: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """Pictures that a request knows: rows (B,) bool, and their latents (B, C, h, w)."""

    rows: Tensor
    latent: Tensor


class Course(ABC):
    """One drawing of a batch. condition: what the network is given. held: pictures that are known, or None."""

    condition: Condition
    held: Held | None

    @abstractmethod
    def mix(self, plain: Tensor, t: Tensor) -> Tensor:
        """Add what is known or guessed so far at time t () to a plain noisy latent, each (B, C, h, w)."""

    @abstractmethod
    def part(self, mixed: Tensor, t: Tensor) -> Tensor:
        """The inverse of `mix` with what is known or guessed by now: the sampler steps on the plain noisy latent."""

    @abstractmethod
    def guess(self, rows: Tensor, t: Tensor) -> None:
        """Guess anew what is unknown, after a call of the network at time t (). rows (B,): each sample's, of its K."""

    @abstractmethod
    def answer(self) -> Answers:
        """What was guessed last."""


class Process(ABC):
    @abstractmethod
    def mix(self, noisy: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Condition]:
        """Mix what a training batch brings into its noisy latents (B, C, h, w) at t (B,).

        Returns them and the condition that the network is given. It comes before dropout, so that what is dropped from
        the condition stays in the noisy latent, as it does in a guided drawing.
        """

    @abstractmethod
    def start(self, condition: Condition) -> Course:
        """Begin a drawing. condition: what `Method.encode_extra` made of the requests is in its `extra`."""
