"""Scenes: one to three emoji at named places and sizes on a background; their captions and how they are drawn.

Captions: `style, emoji, ..., on background`, an emoji being `[size] name [with tone skin tone] [place]`, e.g.
`noto, small red apple left, cat face top right, on blue stripes`. The canonical picture of an emoji, alone on white, is
`noto, cat face`.

Lengths are in 64ths of the picture's side. Pictures are (S, S, 3) uint8.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.emoji.pack import Pack, Portrait

UNIT = 64
PORTRAIT = 60
"""Side of the canonical picture's emoji."""

COLOURS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
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


def centre_spot(side: float) -> Spot:
    return Spot("", "", (UNIT - side) / 2, (UNIT - side) / 2, side)


def canonical(portrait: Portrait) -> Scene:
    """Alone on white, nearly filling the frame."""
    return Scene(portrait.style, (Item(portrait, centre_spot(PORTRAIT)),), WHITE)


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
    return np.asarray(np.rint(first + (second - first) * weight), np.uint8)


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
    edge = background.period * size / UNIT / (2 * np.pi)  # from one colour to the other within about a pixel
    return np.asarray(np.clip(0.5 + wave * edge, 0, 1), np.float32)


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
