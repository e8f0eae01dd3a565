"""Scenes: one to three emoji at named places and sizes on a background, with a caption, and how they are drawn.

Lengths are in 64ths of the picture's side. Pictures are (S, S, 3) uint8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.emoji_pack import Pack, Portrait

T = TypeVar("T")

UNIT = 64
WORDS = 18
"""Captions of scenes have at most this many words (single emoji may have longer official names)."""
PORTRAIT = 60
"""Side of the canonical picture's emoji."""

COLOURS = {
    "white": (255, 255, 255),
    "black": (24, 24, 24),
    "grey": (150, 150, 150),
    "red": (214, 58, 58),
    "orange": (242, 148, 54),
    "yellow": (248, 220, 84),
    "green": (84, 172, 92),
    "blue": (72, 128, 220),
    "purple": (140, 88, 190),
    "pink": (246, 160, 192),
    "brown": (140, 98, 66),
}
TEXTURES = ("stripes", "dots", "checks")

# Place -> position along x and y: 0 at the low edge, 1 centred, 2 at the high edge.
PLACES = {
    "left": (0, 1),
    "right": (2, 1),
    "top": (1, 0),
    "bottom": (1, 2),
    "top left": (0, 0),
    "top right": (2, 0),
    "bottom left": (0, 2),
    "bottom right": (2, 2),
    "center": (1, 1),
}
SIZES = {"small": (22, 24), "": (28, 32), "large": (36, 40)}
_ALONE = {"small": (22, 26), "": (29, 34), "large": (38, 44)}


def _apart(a: str, b: str) -> bool:
    """Whether two places lie at opposite edges along some axis."""
    return any(abs(p - q) == 2 for p, q in zip(PLACES[a], PLACES[b], strict=True))


LAYOUTS = {
    n: [places for places in combinations(PLACES, n) if all(_apart(a, b) for a, b in combinations(places, 2))]
    for n in (1, 2, 3)
}
# Sizes that fit beside each other: any two sum to at most 64.
CLASSES = {
    1: [("small",), ("",), ("large",)],
    2: [("small", "small"), ("small", ""), ("", "small"), ("", ""), ("large", "small"), ("small", "large")],
    3: [("small",) * 3, ("", "small", "small"), ("", "", "small"), ("",) * 3, ("large", "small", "small")],
}


@dataclass(frozen=True)
class Spot:
    """A square for one emoji: the words for it, and where it is."""

    place: str
    word: str
    x: float
    y: float
    side: float


@dataclass(frozen=True)
class Item:
    """An emoji at its spot."""

    portrait: Portrait
    spot: Spot

    @property
    def phrase(self) -> str:
        return " ".join(w for w in (self.spot.word, self.portrait.noun, self.spot.place) if w)


@dataclass(frozen=True)
class Background:
    """What lies behind. kind: plain, gradient, or one of TEXTURES. words: its part of the caption."""

    kind: str
    words: str
    colours: tuple[tuple[int, int, int], tuple[int, int, int]]
    angle: float = 0.0
    period: float = 8.0


WHITE = Background("plain", "", (COLOURS["white"], COLOURS["white"]))


@dataclass(frozen=True)
class Scene:
    """Everything a picture shows; drawn by `draw` and told by `caption`. The first item is drawn first."""

    style: str
    items: tuple[Item, ...]
    background: Background

    @property
    def caption(self) -> str:
        return ", ".join(w for w in (self.style, *(i.phrase for i in self.items), self.background.words) if w)

    @property
    def key(self) -> str:
        return f"{self.style}/" + "+".join(i.portrait.stem for i in self.items)

    @property
    def bases(self) -> set[str]:
        return {i.portrait.emoji.base for i in self.items}


# Drawing lots


def choose(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.random() * len(options))]


def _shade(name: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """The named colour, a little off; white and black stay as they are."""
    if name in ("white", "black"):
        return COLOURS[name]
    r, g, b = np.clip(np.array(COLOURS[name]) + rng.integers(-12, 13, 3), 0, 255).tolist()
    return r, g, b


def random_background(rng: np.random.Generator) -> Background:
    """Plain (half of them), gradient or textured."""
    names = list(COLOURS)
    u, name, angle = rng.random(), choose(names, rng), rng.random() * 2 * np.pi
    first = _shade(name, rng)
    if u < 0.5:
        return Background("plain", f"on {name}", (first, first))
    if u < 0.75:
        other = choose([n for n in names if n != name], rng)
        return Background("gradient", f"on {name} to {other}", (first, _shade(other, rng)), angle)
    kind = choose(TEXTURES, rng)
    towards, share = (0, 0.25) if name == "white" else (255, 0.35)
    r, g, b = (round(c + (towards - c) * share) for c in first)
    return Background(kind, f"on {name} {kind}", (first, (r, g, b)), angle, 6 + 6 * rng.random())


def random_spots(count: int, rng: np.random.Generator) -> list[Spot]:
    """Spots that overlap by a few 64ths at most, in random order."""
    places = rng.permutation(choose(LAYOUTS[count], rng)).tolist()
    words = rng.permutation(choose(CLASSES[count], rng)).tolist()
    ranges = _ALONE if count == 1 else SIZES
    sides = [ranges[w][0] + (ranges[w][1] - ranges[w][0]) * rng.random() for w in words]
    room = 6.0 if count == 1 else UNIT - max(a + b for a, b in combinations(sides, 2))
    slack = min(6.0, room / 2 + 1)
    return [_spot(p, w, s, slack, rng) for p, w, s in zip(places, words, sides, strict=True)]


def _spot(place: str, word: str, side: float, slack: float, rng: np.random.Generator) -> Spot:
    x, y = (_corner(p, side, slack * u) for p, u in zip(PLACES[place], rng.random(2).tolist(), strict=True))
    return Spot(place, word, x, y, side)


def _corner(position: int, side: float, shift: float) -> float:
    """Low end of the spot along one axis: at an edge and in by `shift`, or centred give or take half of it."""
    free = UNIT - side
    return (shift, free / 2 + min(shift, 6.0) / 2 - 1.5, free - shift)[position]


def centred(side: float) -> Spot:
    return Spot("", "", (UNIT - side) / 2, (UNIT - side) / 2, side)


# Drawing pictures


def box(spot: Spot, size: int) -> tuple[int, int, int]:
    """Column, row and side of a spot in pixels of a picture of side `size`, inside the frame."""
    scale = size / UNIT
    side = max(1, round(spot.side * scale))
    x, y = (min(max(round(v * scale), 0), size - side) for v in (spot.x, spot.y))
    return x, y, side


def paint(background: Background, size: int) -> NDArray[np.uint8]:
    """(size, size, 3)."""
    first, second = np.array(background.colours, np.float32)
    if background.kind == "plain":
        return np.broadcast_to(first.astype(np.uint8), (size, size, 3)).copy()
    weight = _pattern(background, size)[..., None]
    return np.rint(first + (second - first) * weight).astype(np.uint8)


def _pattern(background: Background, size: int) -> NDArray[np.float32]:
    """(size, size) share of the second colour, anti-aliased."""
    axis = ((np.arange(size, dtype=np.float32) + 0.5) * (UNIT / size)).astype(np.float32)
    dx, dy = np.float32(np.cos(background.angle)), np.float32(np.sin(background.angle))
    u, v = axis * dx + axis[:, None] * dy, axis[:, None] * dx - axis * dy
    if background.kind == "gradient":
        low, high = u.min(), u.max()
        return np.asarray((u - low) / (high - low), np.float32)
    turn = np.float32(2 * np.pi / background.period)
    if background.kind == "stripes":
        wave = np.sin(u * turn)
    elif background.kind == "checks":
        wave = np.sin(u * turn / 2) * np.sin(v * turn / 2) * 2
    else:  # dots
        wave = np.cos(u * turn) + np.cos(v * turn) - 1
    return np.clip(0.5 + wave * np.float32(background.period * size / UNIT / np.pi / 2), 0, 1).astype(np.float32)


def blend(canvas: NDArray[np.uint8], sprite: NDArray[np.uint8], x: int, y: int) -> None:
    """Lay a premultiplied sprite (s, s, 4) over the canvas (S, S, 3), in place: c <- rgb + c (255 - a) / 255."""
    side = len(sprite)
    view = canvas[y : y + side, x : x + side]
    under = view * (255 - sprite[..., 3:]).astype(np.uint16)
    view[...] = sprite[..., :3] + ((under + 127) // 255).astype(np.uint8)


def draw(scene: Scene, pack: Pack, size: int) -> NDArray[np.uint8]:
    """(size, size, 3) picture of the scene."""
    canvas = paint(scene.background, size)
    for item in scene.items:
        x, y, side = box(item.spot, size)
        blend(canvas, pack.sprite(item.portrait.style, item.portrait.stem, side), x, y)
    return canvas
