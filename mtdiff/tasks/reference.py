"""Draw what a caption and reference pictures say together (the setting of EMMA, arXiv 2406.09162)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch

from mtdiff.tasks.base import Metric, Task, to_signed
from mtdiff.types import REFERENCE, Example, Need, Record


@dataclass(frozen=True)
class FromReference(Task):
    """Draw what a caption and reference pictures say. No source image: zeros, all of it masked.

    reference: names of the pictures that go into `Example.extra`; a record may lack some of them.
    hidden: names of those whose words are left out of the prompt, so that the picture alone tells; null: all that are
    given. A model without references is compared on the same prompts by `reference=[] hidden=[...]`.
    kept: share of the given references that stay, each drawn by itself, so that a model learns to do without one.
    need: `picture` shows names that were never seen once outside of training, `caption` new combinations of known ones.
    """

    name: str = "reference"
    reference: Sequence[str] = ("object",)
    hidden: Sequence[str] | None = None
    kept: float = 1.0
    need: Literal["picture", "caption"] = "picture"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("caption", "higher"),
        Metric("image", "higher"),
        Metric("reference_image", "higher"),
        Metric("own", "higher"),
        Metric("style", "higher"),
        Metric("frechet", "lower"),
    )

    def __post_init__(self) -> None:
        for key, names in (("reference", self.reference), ("hidden", self.hidden or ())):
            if isinstance(names, str) or len(set(names)) < len(names):
                raise ValueError(f"task.{self.name}.{key}={names!r}: expected a list of names, each once")
        if not 0 < self.kept <= 1:
            raise ValueError(f"task.{self.name}.kept={self.kept}: expected a share above 0, at most 1")
        if self.need not in ("picture", "caption"):
            raise ValueError(f"task.{self.name}.need={self.need!r}: expected 'picture' or 'caption'")

    @property
    def needs(self) -> Mapping[Need, float]:
        return {self.need: 1.0}

    @property
    def shows(self) -> Sequence[str]:
        return tuple(self.reference)

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        target = to_signed(record.image)
        mask, source = torch.ones_like(target[:1]), torch.zeros_like(target)
        given = [name for name in self.reference if name in record.reference]
        if self.kept < 1:
            given = [name for name, u in zip(given, rng.random(len(given)).tolist(), strict=True) if u < self.kept]
        extra = {REFERENCE + name: to_signed(record.reference[name].image) for name in given}
        words = [record.reference[n].words for n in self.choose_hidden(given) if n in record.reference]
        prompt = hide_words(record.caption, words)
        return Example(target, source, mask, prompt, task_id, record.key, target_caption=record.caption, extra=extra)

    def choose_hidden(self, given: Sequence[str]) -> Sequence[str]:
        return given if self.hidden is None else self.hidden


def hide_words(caption: str, words: Sequence[str]) -> str:
    """The caption without some of its words; the commas and spaces that stood around them go too."""
    for part in words:
        caption = caption.replace(part, "", 1) if part else caption
    parts = (re.sub(r"\s+", " ", part).strip() for part in caption.split(","))
    return ", ".join(part for part in parts if part)
