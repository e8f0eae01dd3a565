"""Drawing lots: skin tones, companions, places, sizes and backgrounds of scenes. Lengths are in 64ths of the side."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np

from mtdiff.data.emoji.pack import Emoji, Portrait, combination, is_free
from mtdiff.data.emoji.scenes import (
    COLOURS,
    PLACES,
    TEXTURES,
    UNIT,
    Background,
    Item,
    Scene,
    Spot,
    canonical,
    centre_spot,
)
from mtdiff.types import Split

T = TypeVar("T")

WORDS = 18
"""Emoji are added to a scene as long as its caption stays near this many words (single names may be longer)."""
SHORT = 4
"""Names of at most this many words may join any scene that must hold several emoji."""
SINGLE = (46, 60)
"""Sides of a single emoji on a background."""

PILED = (26, 42)
"""Sides of emoji that lie over each other."""
ALONE = {"small": (22, 26), "": (29, 34), "large": (38, 44)}
TOGETHER = {"small": (22, 24), "": (28, 32), "large": (36, 40)}
# Sizes that fit beside each other: any two sides sum to at most 64.
CLASSES: dict[int, list[tuple[str, ...]]] = {
    1: [("small",), ("",), ("large",)],
    2: [("small", "small"), ("small", ""), ("small", ""), ("", ""), ("large", "small"), ("large", "small")],
    3: [("small",) * 3, ("", "small", "small"), ("", "", "small"), ("",) * 3, ("large", "small", "small")],
}


def _are_apart(a: str, b: str) -> bool:
    """Whether two places lie at opposite edges along some axis."""
    return any(abs(p - q) == 2 for p, q in zip(PLACES[a], PLACES[b], strict=True))


LAYOUTS = {
    n: [places for places in combinations(PLACES, n) if all(_are_apart(a, b) for a, b in combinations(places, 2))]
    for n in (1, 2, 3)
}


def choose(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.random() * len(options))]


def shuffle_options(options: Sequence[T], rng: np.random.Generator) -> list[T]:
    return [options[i] for i in rng.permutation(len(options)).tolist()]


# Backgrounds


def _shade(name: str, rng: np.random.Generator) -> tuple[int, int, int]:
    """The named colour, a little off; white and black stay as they are."""
    if name in ("white", "black"):
        return COLOURS[name]
    r, g, b = np.clip(np.array(COLOURS[name]) + rng.integers(-12, 13, 3), 0, 255).tolist()
    return r, g, b


def random_background(rng: np.random.Generator) -> Background:
    """Plain (half of them), gradient or textured (a quarter each)."""
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


# Places


def random_spots(count: int, rng: np.random.Generator, spare: bool = False) -> list[Spot]:
    """`count` spots that overlap by a few 64ths at most, in random order.

    With `spare` (count at most 2), one more at the end: another place for the first, clear of the others.
    """
    places = shuffle_options(choose(LAYOUTS[count + spare], rng), rng)
    words = shuffle_options(choose(CLASSES[count], rng), rng)
    ranges = ALONE if count == 1 else TOGETHER
    sides = [ranges[w][0] + (ranges[w][1] - ranges[w][0]) * rng.random() for w in words]
    room = 10.0 if count == 1 else UNIT - max(a + b for a, b in combinations(sides, 2))
    slack = min(6.0, room / 2 + 1)
    again = [*zip(words, sides, strict=True), (words[0], sides[0])]
    return [_spot(p, w, s, slack, rng) for p, (w, s) in zip(places, again, strict=False)]


def _spot(place: str, word: str, side: float, slack: float, rng: np.random.Generator) -> Spot:
    x, y = (_corner(p, side, slack * u, slack) for p, u in zip(PLACES[place], rng.random(2).tolist(), strict=True))
    return Spot(place, word, x, y, side)


def _corner(position: int, side: float, shift: float, slack: float) -> float:
    """Low end of a spot along one axis: in from an edge by `shift`, or centred give or take half of `slack`."""
    free = UNIT - side
    return (shift, free / 2 + shift - slack / 2, free - shift)[position]


# Emoji


@dataclass(frozen=True)
class Fits:
    """Whether an emoji may join `bases` in a picture of a split; with `held`, only in a combination of that split."""

    bases: Sequence[str]
    split: Split
    words: int
    held: bool

    def __call__(self, other: Portrait) -> bool:
        base = other.emoji.base
        if base in self.bases or len(other.noun.split()) > self.words:
            return False
        if self.held and combination(self.bases[0], base) != self.split:
            return False
        return is_free([*self.bases, base], self.split)


@dataclass(frozen=True)
class Composer:
    """white: share of canonical pictures among single emoji. plain_tone: how often an emoji is drawn without tone."""

    white: float
    plain_tone: float

    def tone(self, tones: Iterable[str], rng: np.random.Generator) -> str:
        """One of `tones`, plain with probability `plain_tone`: skin tones shall not drown emoji that have none."""
        u, coloured = rng.random(), [t for t in tones if t]
        return "" if not coloured or u < self.plain_tone else choose(coloured, rng)

    def make_single(self, main: Portrait, rng: np.random.Generator) -> Scene:
        if rng.random() < self.white:
            return canonical(main)
        spot = centre_spot(SINGLE[0] + (SINGLE[1] - SINGLE[0]) * rng.random())
        return Scene(main.style, (Item(main, spot),), random_background(rng))

    def scene(self, portraits: Sequence[Portrait], rng: np.random.Generator) -> Scene:
        """The emoji at random spots, in random order."""
        items = tuple(Item(*both) for both in zip(portraits, random_spots(len(portraits), rng), strict=True))
        return Scene(portraits[0].style, tuple(shuffle_options(items, rng)), random_background(rng))

    def pile(self, portraits: Sequence[Portrait], rng: np.random.Generator) -> Scene:
        """The emoji anywhere, so that they mostly cover each other in part, in random order; no place is named."""
        sides = [PILED[0] + (PILED[1] - PILED[0]) * u for u in rng.random(len(portraits)).tolist()]
        corners = rng.random((len(portraits), 2)).tolist()
        spots = [Spot("", "", x * (UNIT - s), y * (UNIT - s), s) for s, (x, y) in zip(sides, corners, strict=True)]
        items = [Item(*both) for both in zip(portraits, spots, strict=True)]
        return Scene(portraits[0].style, tuple(shuffle_options(items, rng)), random_background(rng))

    def choose_company(
        self,
        main: Portrait,
        count: int,
        pool: Sequence[Emoji],
        split: Split,
        rng: np.random.Generator,
        least: int = 0,
        held: bool = False,
        beside: Sequence[str] = (),
    ) -> list[Portrait]:
        """Up to `count` companions of `main` from `pool`, in combinations that `split` may show.

        Fewer where the names would be too long together, but at least `least`. held: the first one's combination with
        `main` is one that only `split` may show. beside: other bases that companions must suit, without `main` there.
        """
        chosen: list[Portrait] = []
        room = WORDS - 6 - len(main.noun.split())
        for i in range(count):
            bases = [main.emoji.base, *beside, *(p.emoji.base for p in chosen)]
            needed = i < least
            fits = Fits(bases, split, max(room, SHORT) if needed else room, held and i == 0)
            other = self._companion(main.style, fits, pool, rng, 2000 if needed else 20)
            if other is None:
                break
            chosen.append(other)
            room -= len(other.noun.split()) + 2
        if len(chosen) < least:
            raise LookupError(f"nothing to combine with {main.noun!r} in split {split!r}")
        return chosen

    def _companion(
        self, style: str, fits: Fits, pool: Sequence[Emoji], rng: np.random.Generator, tries: int
    ) -> Portrait | None:
        for _ in range(tries):
            emoji = choose(pool, rng)
            other = Portrait(style, emoji, self.tone(emoji.tones, rng))
            if fits(other):
                return other
        return None
