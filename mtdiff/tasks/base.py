"""The tasks: how a record of a data set turns into an example, and what judges the answer.

All tasks fill the same fields of `Example`, so nothing else in the program branches on a task. A new task is one class
beside this file (or in the user's own package) and a line of YAML with its dotted name; constructor arguments are its
options.

Letters: H W picture. Values in [-1, 1], masks in {0, 1}.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtdiff.errors import shown
from mtdiff.rng import numpy_rng
from mtdiff.types import Batch, Example, Need, Record


@dataclass(frozen=True)
class Metric:
    """What judges a task, by its name in `mtdiff.metrics.judges`, and which way is better.

    name: what is judged; which network does it, and what rows are called then, is the choice `metrics=`.
    """

    name: str
    direction: Literal["lower", "higher"]


LPIPS = Metric("perceptual", "lower")
PSNR = Metric("psnr", "higher")
SSIM = Metric("ssim", "higher")
FIDELITY = (LPIPS, PSNR, SSIM)
"""How near a picture comes to the truth, for tasks that have one."""


class Task(ABC):
    """name: unique in a run; it seeds the task's examples, so renaming a task redraws them.

    metrics: one value per example or per list of examples; the table of a run shows them in this order.
    references: trivial answers that suit the task beside those that follow from its masks, by their names in
    `baselines.trivial`.
    optional: of `image` and `prompt`, what a request may bring or leave out, whatever examples have.
    modalities: what a method may draw beside the picture, or be told of it (`Example.extra`).
    shows: names of the reference pictures of a record (`Record.reference`) that it puts into `Example.extra`.
    """

    name: str
    metrics: ClassVar[tuple[Metric, ...]]
    references: ClassVar[tuple[str, ...]] = ()
    optional: ClassVar[frozenset[str]] = frozenset()
    modalities: ClassVar[tuple[str, ...]] = ()

    @property
    def shows(self) -> Sequence[str]:
        return ()

    @property
    def largest(self) -> Mapping[str, int]:
        """The largest whole number that an entry of `Example.extra` may hold, by its name, where it numbers things."""
        return {}

    @property
    def choices(self) -> Mapping[str, Sequence[str]]:
        """What a request may say beside prompt, image and mask, by name, and the values that are allowed."""
        return {}

    @property
    @abstractmethod
    def needs(self) -> Mapping[Need, float]:
        """What the task's records are, with the share of each kind; shares are positive and sum to 1."""

    def probe(self, need: Need) -> Record:
        """A record of this kind that `make` takes, of noise, 64 px: with it one finds out what the task reads."""
        noise = torch.from_numpy(numpy_rng("probe").integers(0, 256, (3, 64, 64), dtype=np.uint8))
        plain = Record(noise, "a picture", "probe")
        if need not in ("edit", "removal"):
            return plain
        return replace(plain, kind="pair", edited=noise, instruction="change it", edited_caption="a picture")

    def read_data(self, list_classes: Callable[[], Sequence[str]]) -> Mapping[str, Any]:
        """Options that follow from a run's training data, and are recorded with the run. list_classes: its labels."""
        return {}

    def ask(self, batch: Batch) -> Batch | None:
        """Test examples of this task as questions whose answers are no pictures; None where nothing is asked."""
        return None

    def read_request(self, example: Example, given: Mapping[str, str]) -> Example:
        """The example that a request makes. given: what it says beside prompt, image, mask; ValueError if in vain."""
        for name, value in given.items():
            raise ValueError(f"{name}={shown(value)}: task {self.name!r} takes none")
        return example

    def name_numbers(self, numbers: Mapping[str, int]) -> dict[str, str]:
        """In words what a drawing has said of one request beside its picture; 0 is nothing."""
        return {}

    @abstractmethod
    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        """One example. Everything random comes from `rng`; `task_id` is the index in the run's list of tasks."""


def edit_example(record: Record, task_id: int) -> Example:
    """The edited picture from the whole original and the instruction."""
    if record.edited is None or record.instruction is None or record.edited_caption is None:
        raise ValueError(f"record {record.key!r} has no edited picture with its instruction and caption")
    source, target = to_signed(record.image), to_signed(record.edited)
    mask = torch.zeros_like(source[:1])
    captions = (record.caption, record.edited_caption)
    return Example(target, source, mask, record.instruction, task_id, record.key, *captions)


def restore_example(
    record: Record, source: Tensor, task_id: int, mask: Tensor | None = None, prompt: str = ""
) -> Example:
    """The record's picture from a damaged one. source (3, H, W) in [-1, 1]; mask (1, H, W), or None where all is known.

    Where the mask is 1 the source is blanked.
    """
    target = to_signed(record.image)
    mask = torch.zeros_like(target[:1]) if mask is None else mask
    return Example(target, source * (1 - mask), mask, prompt, task_id, record.key, target_caption=record.caption)


def to_signed(image: Tensor) -> Tensor:
    """(3, H, W) uint8 -> float32 in [-1, 1]."""
    return image.float() / 127.5 - 1


def to_unit(image: Tensor) -> NDArray[np.float32]:
    """(3, H, W) uint8 -> (H, W, 3) float32 in [0, 1], as `tasks.corruptions` takes pictures."""
    return image.permute(1, 2, 0).numpy().astype(np.float32) / np.float32(255)


def from_unit(picture: NDArray[np.float32]) -> Tensor:
    """(H, W, 3) in [0, 1] -> (3, H, W) float32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))).float() * 2 - 1


def check_range(name: str, limits: Sequence[float], low: float, high: float) -> None:
    """Refuse an option that is not two ascending numbers within [low, high]."""
    if len(limits) != 2 or not low <= limits[0] <= limits[1] <= high:
        raise ValueError(f"{name}={list(limits)!r}: expected two ascending numbers from {low:g} to {high:g}")


def check_kinds(kinds: Sequence[str], known: Sequence[str]) -> None:
    """Refuse an option `kinds` that is empty or names what is not known."""
    if not kinds or not set(kinds) <= set(known):
        raise ValueError(f"kinds={list(kinds)!r}: expected one or more of {', '.join(known)}")
