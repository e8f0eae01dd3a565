"""Draw a map of what a picture shows: which kind of thing is where, and what lies over what.

A map is a picture in a few fixed colours (its palette), so that any method draws it like other pictures; what judges an
answer takes each pixel for the palette's nearest colour.

Letters: H W picture.
"""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from PIL import ImageColor
from torch import Tensor

from mtdiff.tasks.base import Metric, Task, to_signed
from mtdiff.types import Example, Need, Record

Colour = tuple[int, int, int]

EMOJI: Mapping[str, str] = MappingProxyType(
    {
        "background": "#000000",
        "Smileys & Emotion": "#ffff00",
        "People & Body": "#ff0000",
        "Animals & Nature": "#00ff00",
        "Food & Drink": "#ff00ff",
        "Travel & Places": "#0000ff",
        "Activities": "#00ffff",
        "Objects": "#ffffff",
        "Symbols": "#808080",
    }
)
"""The palette of the shipped set: Unicode's categories of emoji."""
LEVELS: tuple[Colour, ...] = ((0, 0, 0), (85, 85, 85), (170, 170, 170), (255, 255, 255))
"""Greys of `Order`: the background, what lies on it alone, what lies over such a thing, and over that."""


class UnknownColour(ValueError):
    """A map has a colour that its palette lacks. From a loader process only the line itself is kept."""

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.UnknownColour: "))


class MapTask(Task):
    """The record's map from its picture; no prompt."""

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("miou", "higher"), Metric("pixel_accuracy", "higher"))
    references: ClassVar[tuple[str, ...]] = ("mean_colour",)

    @property
    @abstractmethod
    def colours(self) -> tuple[Colour, ...]:
        """The palette, 0 to 255."""

    def make(self, record: Record, rng: np.random.Generator, task_id: int) -> Example:
        if record.map is None:
            raise ValueError(f"record {record.key!r} has no map for the task {self.name!r}")
        self.check_map(record.map, record.key)
        target, source = to_signed(record.map), to_signed(record.image)
        mask = torch.zeros_like(target[:1])
        return Example(target, source, mask, "", task_id, record.key, target_caption=record.caption)

    def check_map(self, image: Tensor, key: str) -> None:
        """Refuse a map (3, H, W) uint8 that has other colours than the palette's."""
        numbers = number_colours(image)
        known = number_colours(torch.tensor(self.colours, dtype=torch.uint8).T)
        odd = numbers[~torch.isin(numbers, known)]
        if len(odd):
            first, allowed = f"#{int(odd[0]):06x}", ", ".join(f"#{int(n):06x}" for n in known)
            raise UnknownColour(
                f"task.{self.name}: record {key!r} has {len(odd)} pixels of unknown colours, first {first}; "
                f"expected {allowed}"
            )

    def probe(self, need: Need) -> Record:
        noise = super().probe(need)
        plane = torch.tensor(self.colours[0], dtype=torch.uint8).view(3, 1, 1).expand_as(noise.image)
        return replace(noise, map=plane)


def number_colours(colours: Tensor) -> Tensor:
    """(3, ...) uint8 -> 0xRRGGBB of each, flat."""
    r, g, b = colours.flatten(1).int()
    return (r << 16) + (g << 8) + b


@dataclass(frozen=True)
class Segment(MapTask):
    """Which kind of thing is where. palette: class -> colour, as CSS writes it; null: the shipped set's, `EMOJI`."""

    palette: Mapping[str, str] | None = None
    name: str = "segment"

    def __post_init__(self) -> None:
        if len(self.colours) < 2 or len(set(self.colours)) < len(self.colours):
            raise ValueError(
                f"palette={dict(self.palette or {})!r}: expected at least two classes, of different colours"
            )

    @property
    def colours(self) -> tuple[Colour, ...]:
        return tuple(read_colour(name, text) for name, text in (self.palette or EMOJI).items())

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"labels": 1.0}


@dataclass(frozen=True)
class Order(MapTask):
    """What lies over what, as greys (`LEVELS`): an object lies one level above the highest that it covers a part of.

    This is the order in which a scene was laid, no depth: objects that do not touch are on the same level.
    """

    name: str = "order"

    @property
    def colours(self) -> tuple[Colour, ...]:
        return LEVELS

    @property
    def needs(self) -> Mapping[Need, float]:
        return {"order": 1.0}


def read_colour(name: str, text: str) -> Colour:
    """0 to 255 of a colour such as `#804080` or `teal`."""
    try:
        r, g, b = ImageColor.getrgb(text)[:3]
    except (ValueError, AttributeError):
        raise ValueError(f"palette.{name}={text!r}: expected a colour such as '#804080'") from None
    return r, g, b
