"""A method turns the base model into a multi-task one: it edits named sites and says what is trained."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import nn

from mtdiff.backbones.base import Backbone
from mtdiff.layout import ChannelConcat, Layout
from mtdiff.routing import Routing


class CannotFold(ValueError):
    """This method has no plain denoiser for one task; the message says why in one line."""


class Method(ABC):
    """Options are constructor arguments; `adapt` is called once, on a backbone whose parameters are all frozen.

    equals_base: before training the adapted model equals the untouched base (the contract battery checks it).
    isolates_tasks: no parameter that belongs to one task gets gradient from another's samples.
    """

    equals_base: ClassVar[bool] = True

    @property
    def layout(self) -> Layout:
        return ChannelConcat()

    @abstractmethod
    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        """Edit `backbone.denoiser` in place; mark what is trained by `requires_grad`. Must not read a tensor's value."""

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        """Parameters whose first axis is the task: row k may get gradient from task k's samples only."""
        return []

    def fold(self, backbone: Backbone, task: int) -> None:
        """Turn the adapted `backbone.denoiser` in place into a plain diffusers network for one task."""
        raise CannotFold(f"{type(self).__name__} does not fold into a plain denoiser")
