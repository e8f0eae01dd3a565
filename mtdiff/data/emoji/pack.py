"""The shipped picture pack: 1636 emoji by two designers, their names, skin tones and splits.

A `Portrait` is one drawing: a style, an emoji, a skin tone. Splits are by *base* emoji and stored in the pack
(`experiments/base_model/build_emoji.py`), so no tone, gender or style of one emoji crosses them.
Combinations of training emoji are split as well: `combination` gives every unordered pair of bases a split, and no
training record ever holds a pair of another split (`is_free`).
"""

import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtdiff.types import SPLITS, Split

FOLDER = Path(__file__).parents[2] / "assets" / "emoji"
INDEX = "emoji.json.gz"
PICTURES = "pictures.zip.gz"  # thousands of small files, whose headers take a fifth of the archive
HELD_OUT: dict[Split, float] = {"test": 0.12, "validation": 0.04}
"""Share of the unordered pairs of training bases that only this split may combine."""


@dataclass(frozen=True)
class Emoji:
    """One entry of the pack. tones: skin tone ("" is plain) -> stem of the picture's file."""

    name: str
    category: str
    subcategory: str
    base: str
    split: Split
    tones: dict[str, str]

    def __hash__(self) -> int:
        return hash(self.name)  # names are unique


def _emoji(entry: dict[str, Any], tones: bool) -> Emoji:
    """An entry of the index, with all its skin tones or the plain one alone."""
    known = entry["tones"] if tones else {"": entry["tones"][""]}
    name, category, subcategory = entry["name"], entry["category"], entry["subcategory"]
    return Emoji(name, category, subcategory, entry["base"], entry["split"], known)


@dataclass(frozen=True)
class Portrait:
    """One drawing of one emoji."""

    style: str
    emoji: Emoji
    tone: str = ""

    @property
    def stem(self) -> str:
        return self.emoji.tones[self.tone]

    @property
    def noun(self) -> str:
        """The emoji in words, with its skin tone: `waving hand sign with dark skin tone`."""
        return self.emoji.name + (f" with {self.tone} skin tone" if self.tone else "")

    @property
    def caption(self) -> str:
        """The caption of the canonical picture (alone, centred, on white)."""
        return f"{self.style}, {self.noun}"


def combination(base: str, other: str) -> Split:
    """Split of an unordered pair of bases, from a hash of both: the only split whose scenes may combine them."""
    pair = "+".join(sorted((base, other)))
    u = int(hashlib.sha256(pair.encode()).hexdigest()[:8], 16) / 2**32
    for split, share in HELD_OUT.items():
        if u < share:
            return split
        u -= share
    return "train"


def is_free(bases: Iterable[str], split: Split = "train") -> bool:
    """Whether no pair among distinct `bases` is held out for another split (`train` pairs are free to all)."""
    return all(combination(a, b) in ("train", split) for a, b in combinations(sorted(set(bases)), 2))


def read_index(folder: Path) -> bytes:
    """The index of a pack, JSON in UTF-8."""
    return gzip.decompress((folder / INDEX).read_bytes())


def read_pictures(folder: Path) -> bytes:
    """A pack's archive of `<style>/<stem>.webp`, a zip file."""
    return gzip.decompress((folder / PICTURES).read_bytes())


class Pack:
    """Index and pictures. Pickles as its arguments; pictures are read on first use, and no file stays open."""

    def __init__(self, styles: Sequence[str], tones: bool, folder: Path = FOLDER):
        self.index: dict[str, Any] = json.loads(read_index(folder))
        known = tuple(self.index["styles"])
        if not styles or len(set(styles)) < len(styles) or not set(styles) <= set(known):
            raise ValueError(f"styles={list(styles)!r}: expected one or more, each once, of {', '.join(known)}")
        self.styles, self.tones, self.folder = tuple(styles), tones, Path(folder)
        self.emoji = tuple(_emoji(e, tones) for e in self.index["emoji"])
        self._decoded: dict[tuple[str, str], Image.Image] = {}

    def __reduce__(self) -> Any:
        return type(self), (self.styles, self.tones, self.folder)

    def of(self, split: Split) -> tuple[Emoji, ...]:
        return self._by_split[split]

    @cached_property
    def _by_split(self) -> dict[Split, tuple[Emoji, ...]]:
        return {s: tuple(e for e in self.emoji if e.split == s) for s in SPLITS}

    @cached_property
    def _files(self) -> dict[str, bytes]:
        """All compressed pictures (12 MB): held in memory, so forked workers share no file position."""
        with zipfile.ZipFile(io.BytesIO(read_pictures(self.folder))) as pack:
            return {name: pack.read(name) for name in pack.namelist() if name.split("/")[0] in self.styles}

    def picture(self, style: str, stem: str) -> Image.Image:
        """The drawing, 64 px, with colours premultiplied by alpha (mode `RGBa`). Do not modify it."""
        picture = self._decoded.get((style, stem))
        if picture is None:
            with Image.open(io.BytesIO(self._files[f"{style}/{stem}.webp"])) as file:
                picture = self._decoded[style, stem] = file.convert("RGBA").convert("RGBa")
        return picture

    def sprite(self, style: str, stem: str, side: int) -> NDArray[np.uint8]:
        """(side, side, 4) premultiplied drawing at another size, by kernels that do not ring at its outline."""
        picture = self.picture(style, stem)
        kernel = Image.Resampling.HAMMING if side <= picture.width else Image.Resampling.BILINEAR
        return np.array(picture.resize((side, side), kernel))


@cache
def open_pack(styles: tuple[str, ...], tones: bool) -> Pack:
    """The shipped pack. All sources of a process share it with the pictures that are decoded."""
    return Pack(styles, tones)
