"""A method turns the base model into a multi-task one: it edits named sites and says what is trained."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mtdiff.backbones.base import Backbone, Encoder
from mtdiff.methods.layout import ChannelConcat, Layout
from mtdiff.methods.merging import CannotMerge, Rule
from mtdiff.methods.process import Process
from mtdiff.methods.routing import Routing
from mtdiff.methods.taskwise import TaskConv2d, TaskLayerNorm
from mtdiff.methods.teaching import Teaching
from mtdiff.types import Condition


class CannotFold(ValueError):
    """This method has no plain denoiser for one task; the message says why in one line."""


class CannotAssemble(ValueError):
    """This method has networks of one size alone; the message says so in one line."""


class Method(ABC):
    """Options are constructor arguments; `adapt` is called once, on a backbone whose parameters are all frozen.

    mixes: whether it has a `process`, so that a sampler without a form for that is refused before anything is loaded.
    """

    mixes: ClassVar[bool] = False

    @property
    def equals_base(self) -> bool:
        """Promise: before training, the adapted model predicts what the untouched base predicts."""
        return True

    @property
    def layout(self) -> Layout:
        return ChannelConcat()

    @abstractmethod
    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        """Edit `backbone.denoiser` in place; mark what is trained by `requires_grad`; read no tensor's value."""

    def check(self, backbone: Backbone) -> None:
        """Refuse a base that lacks what the options name, in one line. It may have shapes alone."""
        return

    def check_numbers(self, largest: Mapping[str, int]) -> None:
        """Refuse more than the options have room for. largest: numbers that a run's examples hold in `extra`, by name.

        It comes before training, which reads no such number: to do so it would have to wait for the device.
        """
        return

    def encode_extra(self, encoder: Encoder, extra: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What the model is given beside source and text: entries of `Condition.extra`, each with B first.

        extra: `Batch.extra`, on the device of the batch; a row of zeros is an example without it. What comes back has
        to be zeros in such a row, and where a text is dropped it becomes zeros as well.
        """
        return {}

    @property
    def process(self) -> Process | None:
        """What is mixed into noisy latents beside the picture; None: the base's own process. Asked after `adapt`."""
        return None

    @property
    def budgets(self) -> tuple[float, ...]:
        """Shares of the base's cost that this method's network may be held to; none where it has one size."""
        return ()

    def draw_condition(self, condition: Condition, seeds: Sequence[int]) -> Condition:
        """What training draws for each sample beside noise, time and dropout, from the sample's own seed alone."""
        return condition

    @property
    def beside(self) -> Mapping[str, str]:
        """Frozen networks of the method's own, by name: the hash of each one's weights.

        What the method trains means nothing beside others, so its adapter is refused there.
        """
        return {}

    @property
    def reads(self) -> Mapping[str, tuple[int, ...]]:
        """What `encode_extra` may give: the shape of one sample's, by name. No task may lack all of it."""
        return {}

    @property
    def error_weight(self) -> float:
        """Weight of the prediction error beside `extra_errors`."""
        return 1.0

    def teach(
        self,
        backbone: Backbone,
        read_base: Callable[[], Backbone],
        read_teacher: Callable[[], Teaching] | None = None,
    ) -> None:
        """Make ready for `extra_errors`; called once the adapted `backbone` is about to be trained, and only then.

        read_base: gives the untouched base once more. read_teacher: gives the network of the run that the method's
        option `teacher` names; None where it names none. What is kept of either is no part of the adapted network.
        """
        return

    def extra_errors(self, backbone: Backbone, noisy: Tensor, t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        """What the loss holds beside the prediction error: weighted terms (B,) by the names they are logged under.

        Asked in training, just after the adapted network has predicted noisy (B, C, h, w) at t (B,) with gradients.
        """
        return {}

    def task_parameters(self, backbone: Backbone) -> list[nn.Parameter]:
        """Parameters whose first axis is the task: row k may get gradient from task k's samples only."""
        taskwise = (m for m in backbone.denoiser.modules() if isinstance(m, TaskConv2d | TaskLayerNorm))
        return [p for m in taskwise for p in m.parameters()]

    def rate(self, name: str) -> float:
        """Factor of the learning rate for the trained parameter of this name in the denoising network."""
        return 1.0

    def fold(self, backbone: Backbone, task: int) -> None:
        """Turn the adapted `backbone.denoiser` in place into a plain diffusers network for one task.

        Its configuration follows, so that `save_pretrained` and `from_pretrained` work. If it raises, nothing changed.
        """
        raise CannotFold(f"{type(self).__name__} does not fold into a plain denoiser")

    def simplify(self, backbone: Backbone, task: int) -> None:
        """Turn the adapted `backbone.denoiser` in place into plain layers under the base's names, to measure weights.

        As `fold`, but the network need not draw what the method draws. CannotFold where no such layers exist.
        """
        self.fold(backbone, task)

    def report(self, backbone: Backbone, tasks: Sequence[str]) -> dict[str, Any]:
        """What this method has to tell of itself after training: small, plain JSON, for `Result.method_report`."""
        return {}

    def assembly_options(self, options: Mapping[str, Any], keep: Sequence[bool]) -> dict[str, Any]:
        """Options of the method under which it is the network with these modules alone.

        options: as they were given. CannotAssemble where the method has no modules to choose from.
        """
        raise CannotAssemble(f"{type(self).__name__} has no modules to choose from, expected a run of method=budgeted")

    def assemble(self, backbone: Backbone, keep: Sequence[bool], task: int) -> None:
        """Turn the adapted `backbone.denoiser` in place into that network, adapted for one task.

        Its weights have the names and shapes that `assembly_options` give on an untouched base.
        """
        raise CannotAssemble(f"{type(self).__name__} has no modules to choose from, expected a run of method=budgeted")

    def merge_options(self, options: Mapping[str, Any], parts: int) -> dict[str, Any]:
        """Options of the method under which so many trainings of it, of one task each, become one model.

        options: as they were given. CannotMerge where what is trained cannot be merged.
        """
        raise CannotMerge(f"{type(self).__name__} cannot be merged: its trainings share no weights of one meaning")

    def sum_options(self, options: Sequence[Mapping[str, Any]], weights: Sequence[float]) -> dict[str, Any]:
        """Options under which trainings of this method, made apart on one base, add up in one model without training.

        options: of each, which may differ in the names of what is added alone. weights: of each in the sum; the summed
        model has the tensors of all of them, under their own names. CannotMerge where trainings do not add up so.
        """
        raise CannotMerge(f"{type(self).__name__} cannot be summed: its trainings change the same weights")

    def merge(
        self, start: Mapping[str, Tensor], trained: Sequence[Mapping[str, Tensor]], rule: Rule
    ) -> dict[str, Tensor]:
        """Merged values of what tasks share. start: as the method starts it; trained: after each of the trainings."""
        return {name: rule.merge(value, [t[name] for t in trained], name) for name, value in start.items()}


def widen_input(backbone: Backbone, extra: int, tasks: int, routing: Routing) -> None:
    """Give every task an input convolution of its own with `extra` more channels, which start at zero."""
    for site in backbone.sites("input"):
        conv = site.module
        assert isinstance(conv, nn.Conv2d)
        site.replace(TaskConv2d(conv, extra, tasks, routing))


def fold_input(backbone: Backbone, task: int) -> None:
    """The last step of folding: leave one task's input convolution, and bring the denoiser's configuration in line."""
    for site in backbone.sites("input"):
        if isinstance(site.module, TaskConv2d):
            site.replace(site.module.fold(task))
    backbone.sync_config()
