"""Designer-drawn emoji with their official names: pictures, scenes, edits and removals."""

from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtdiff.data.emoji_pack import Emoji, Pack, Portrait, combination, unheld
from mtdiff.data.emoji_scenes import (
    PORTRAIT,
    WHITE,
    WORDS,
    Item,
    Scene,
    centred,
    choose,
    draw,
    random_background,
    random_spots,
)
from mtdiff.data.source import Need, Source
from mtdiff.types import SPLITS, Record, Split


def share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a share in [0, 1]")
    return value


class EmojiSource(Source):
    """size: side of the pictures. scenes: share of composed scenes among `picture` and `caption` records in training.

    white: share of canonical portraits (alone on white) among the single emoji; the others have backgrounds.
    plain_tone: how often an emoji that has skin tones is drawn without one.
    """

    def __init__(
        self,
        size: int = 64,
        styles: Sequence[str] = ("noto", "twemoji"),
        tones: bool = True,
        scenes: float = 0.5,
        white: float = 0.6,
        plain_tone: float = 0.5,
    ):
        if not isinstance(size, int) or size < 16:
            raise ValueError(f"size={size!r}: expected a whole number of at least 16")
        self.side, self.pack = size, Pack(styles, tones)
        self.scenes, self.white = share("scenes", scenes), share("white", white)
        self.plain_tone = share("plain_tone", plain_tone)

    # What it offers

    def size(self, need: Need, split: Split) -> int:
        if need not in ("picture", "caption"):
            return 0
        return len(self._pool(need, split)) * len(self.pack.styles)

    def record(self, need: Need, split: Split, index: int, rng: np.random.Generator) -> Record:
        if split not in SPLITS:
            raise ValueError(f"split={split!r}: expected one of {', '.join(SPLITS)}")
        if not 0 <= index < self.size(need, split):
            raise IndexError(f"index={index}: `{need}` of `{split}` has {self.size(need, split)} records")
        pool = self._pool(need, split)
        style, emoji = self.pack.styles[index // len(pool)], pool[index % len(pool)]
        held = need == "caption" and split != "train"
        main = Portrait(style, emoji, self._tone(emoji, rng))
        scene = self._scene(main, pool, split, rng, held) if held or rng.random() < self.scenes else None
        scene = scene or self._single(main, rng)
        return Record(self._draw(scene), scene.caption, scene.key)

    def portrait(self, style: str, stem: str) -> Record:
        """The canonical picture of one drawing: alone, centred, nearly filling the frame, on white."""
        if (style, stem) not in self._by_stem:
            raise ValueError(f"style={style!r}, stem={stem!r}: no such picture in {', '.join(self.pack.styles)}")
        scene = canonical(self._by_stem[style, stem])
        return Record(self._draw(scene), scene.caption, scene.key)

    def portraits(self, split: Split) -> list[Portrait]:
        """Every drawing of a split: emoji x tone x style."""
        return [Portrait(s, e, t) for s in self.pack.styles for e in self.pack.of(split) for t in e.tones]

    # Choosing

    @cached_property
    def _by_stem(self) -> dict[tuple[str, str], Portrait]:
        return {(p.style, p.stem): p for s in SPLITS for p in self.portraits(s)}

    def _pool(self, need: Need, split: Split) -> tuple[Emoji, ...]:
        """Emoji that records of a split may show: its own, or the training emoji in held-out combinations."""
        return self.pack.of(split if need == "picture" else "train")

    def _tone(self, emoji: Emoji, rng: np.random.Generator) -> str:
        """Plain with probability `plain_tone`, so that skin tones do not drown the emoji that have none."""
        u, tones = rng.random(), [t for t in emoji.tones if t]
        return "" if not tones or u < self.plain_tone else choose(tones, rng)

    def _single(self, main: Portrait, rng: np.random.Generator) -> Scene:
        if rng.random() < self.white:
            return canonical(main)
        spot = centred(46 + 14 * rng.random())
        return Scene(main.style, (Item(main, spot),), random_background(rng))

    def _scene(
        self, main: Portrait, pool: tuple[Emoji, ...], split: Split, rng: np.random.Generator, held: bool
    ) -> Scene | None:
        """One to three emoji, or None where their names are too long for a caption together."""
        count = choose((2, 2, 3) if held else (1, 2, 2, 2, 3, 3), rng)
        items, words = [main], WORDS - 6 - len(main.noun.split())
        for _ in range(count - 1):
            other = self._partner(items, pool, split, words, rng, held and len(items) == 1)
            if other is None:
                break
            items.append(other)
            words -= len(other.noun.split()) + 2
        spots = random_spots(len(items), rng)
        order = rng.permutation(len(items)).tolist()
        placed = tuple(Item(items[i], spots[i]) for i in order)
        return Scene(main.style, placed, random_background(rng))

    def _partner(
        self,
        items: list[Portrait],
        pool: tuple[Emoji, ...],
        split: Split,
        words: int,
        rng: np.random.Generator,
        held: bool,
    ) -> Portrait | None:
        """Another emoji that may appear beside `items`: with `held`, in a combination of this split alone."""
        bases = [p.emoji.base for p in items]
        for _ in range(400 if held else 20):
            emoji = choose(pool, rng)
            if emoji.base in bases or (held and combination(bases[0], emoji.base) != split):
                continue
            other = Portrait(items[0].style, emoji, self._tone(emoji, rng))
            if len(other.noun.split()) <= max(words, 3 if held else 0) and unheld([*bases, emoji.base], split):
                return other
        return None

    def _draw(self, scene: Scene) -> Tensor:
        """(3, S, S) uint8."""
        return torch.from_numpy(np.ascontiguousarray(draw(scene, self.pack, self.side).transpose(2, 0, 1)))


def canonical(portrait: Portrait) -> Scene:
    return Scene(portrait.style, (Item(portrait, centred(PORTRAIT)),), WHITE)
