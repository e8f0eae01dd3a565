"""A picture together with another modality of it: its masked version, or its label (MT-Diffusion, arXiv 2407.17571).

What an example brings is in `Example.extra`, where a method that mixes modalities reads it; others do not look at it.

masked   1: the source is the masked version. 2: it is asked for.
label    the number of a class, from 1. -1: it is asked for.
picture  (3, H, W): the answer, where a request or a question knows it.

Letters: H W picture.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtdiff.errors import shown
from mtdiff.tasks.base import FIDELITY, LPIPS, PSNR, Metric, Task, check_range, restore_example, to_signed
from mtdiff.types import LABEL_TIMES, MASKED_SHARES, Batch, Example, Need, Record

TRIES = 8
SETS = (Metric("frechet", "lower"), Metric("kernel", "lower"), Metric("caption", "higher"))
KNOWN = ("picture", "masked", "none")


@dataclass(frozen=True)
class JointMasked(Task):
    """A picture and its version with up to `patches` square patches zeroed, which take a share from `share` of it."""

    patches: int = 10
    share: Sequence[float] = (0.05, 0.2)
    name: str = "joint_masked"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *FIDELITY,
        *(Metric(f"{m.name}_masked_{level}", m.direction) for m in (LPIPS, PSNR) for level in MASKED_SHARES),
        *SETS,
    )
    optional: ClassVar[frozenset[str]] = frozenset({"image", "prompt"})
    modalities: ClassVar[tuple[str, ...]] = ("masked",)

    def __post_init__(self) -> None:
        if not isinstance(self.patches, int) or self.patches < 1:
            raise ValueError(f"patches={self.patches!r}: expected a whole number of at least 1")
        check_range("share", self.share, 0.001, 0.9)

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"picture": 1.0}

    @property
    def choices(self) -> Mapping[str, Sequence[str]]:
        return {"known": KNOWN}

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        target = to_signed(record.image)
        number, (low, high) = int(rng.integers(1, self.patches, endpoint=True)), self.share
        share = float(rng.uniform(low, high))
        mask = torch.from_numpy(draw_patches(target.shape[-2], target.shape[-1], number, share, rng))[None]  # (1, H, W)
        example = restore_example(record, target, task_id, mask, record.caption)
        return replace(example, extra={"masked": torch.tensor(1)})

    def read_request(self, example: Example, given: Mapping[str, str]) -> Example:
        """known: which of picture and masked picture the image is; by default the masked one, or none without image."""
        refuse_others(self.name, given, self.choices)
        has_image = bool((example.mask < 1).any())
        known = given.get("known", "masked" if has_image else "none")
        if known not in KNOWN:
            raise ValueError(f"known={shown(known)}: expected one of {', '.join(KNOWN)}")
        if has_image != (known != "none"):
            raise ValueError(f"image: known={known} needs {'none' if has_image else 'one'}")
        if known == "masked":
            return replace(example, extra={"masked": torch.tensor(1)})
        if known == "picture" and bool((example.mask > 0).any()):
            raise ValueError("mask: known=picture needs none, since the masked picture is what is asked for")
        extra = {"masked": torch.tensor(2)}
        return ask_beside(example, extra) if known == "picture" else replace(example, extra=extra)


@dataclass(frozen=True)
class JointLabel(Task):
    """A picture and its label. The text stays empty, since captions tell the label.

    classes: names of the labels; null: those of the training data, which are recorded with a run.
    """

    classes: Sequence[str] | None = None
    name: str = "joint_label"
    metrics: ClassVar[tuple[Metric, ...]] = (
        *SETS,
        Metric("label", "higher"),
        *(Metric(f"label_{level}", "higher") for level in LABEL_TIMES),
    )
    optional: ClassVar[frozenset[str]] = frozenset({"image"})
    modalities: ClassVar[tuple[str, ...]] = ("label",)

    def __post_init__(self) -> None:
        names = self.classes
        if names is not None and (isinstance(names, str) or len(names) < 2 or len(set(names)) < len(names)):
            raise ValueError(f"classes={shown(names)}: expected a list of two or more names, each once, or null")

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"label": 1.0}

    @property
    def choices(self) -> Mapping[str, Sequence[str]]:
        return {"label": tuple(self.classes or ())}

    def read_data(self, list_classes: Callable[[], Sequence[str]]) -> Mapping[str, Any]:
        if self.classes is not None:
            return {}
        found = list(list_classes())
        if len(found) < 2:
            raise ValueError(f"tasks: {self.name} needs two labels or more, of which the data has {len(found)}")
        return {"classes": found}

    @property
    def largest(self) -> Mapping[str, int]:
        return {"label": len(self.classes or ())}

    def number(self, label: str) -> int:
        """The number of a class from 1; 0 where the training data has none of that name."""
        names = list(self.classes or ())
        return names.index(label) + 1 if label in names else 0

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        target = to_signed(record.image)
        nothing, mask = torch.zeros_like(target), torch.ones_like(target[:1])
        extra = {"label": torch.tensor(self.number(record.label))}
        return Example(target, nothing, mask, "", task_id, record.key, target_caption=record.caption, extra=extra)

    def ask(self, batch: Batch) -> Batch | None:
        """Which label each of the true pictures has."""
        return replace(batch, extra={"picture": batch.target, "label": torch.full_like(batch.task, -1)})

    def read_request(self, example: Example, given: Mapping[str, str]) -> Example:
        """label: the name of a class; without it one is asked for. An image is the picture, which is known then."""
        refuse_others(self.name, given, self.choices)
        if example.prompt.strip():
            raise ValueError(f"prompt: task {self.name!r} takes none, since texts tell the label")
        label = -1
        if "label" in given:
            label = self.number(given["label"])
            if label == 0:
                raise ValueError(f"label={shown(given['label'])}: expected one of {', '.join(self.classes or ())}")
        extra = {"label": torch.tensor(label)}
        has_image = bool((example.mask < 1).any())
        return ask_beside(example, extra) if has_image else replace(example, extra=extra)

    def name_numbers(self, numbers: Mapping[str, int]) -> dict[str, str]:
        names = list(self.classes or ())
        label = numbers.get("label", 0)
        if label == 0:
            return {}
        return {"label": names[label - 1] if label <= len(names) else "none of the labels that were trained"}


def ask_beside(example: Example, extra: Mapping[str, Tensor]) -> Example:
    """The example whose image is the answer itself, which is known; the model has no source."""
    blank = {"source": torch.zeros_like(example.source), "mask": torch.ones_like(example.mask)}
    return replace(example, **blank, extra={**extra, "picture": example.source})  # type: ignore[arg-type]


def refuse_others(task: str, given: Mapping[str, str], known: Collection[str]) -> None:
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{name}={shown(value)}: task {task!r} takes none")


def draw_patches(height: int, width: int, number: int, share: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """(H, W): 1 in so many equal squares, which together take about `share` of the picture.

    Each goes where, of TRIES places, it overlaps least with the earlier ones.
    """
    side = min(max(1, round(sqrt(share * height * width / number))), height, width)
    mask = np.zeros((height, width), np.float32)
    for _ in range(number):
        tops, lefts = rng.integers(height - side + 1, size=TRIES), rng.integers(width - side + 1, size=TRIES)
        spots = [(slice(top, top + side), slice(left, left + side)) for top, left in zip(tops, lefts, strict=True)]
        mask[min(spots, key=lambda spot: float(mask[spot].sum()))] = 1
    return mask
