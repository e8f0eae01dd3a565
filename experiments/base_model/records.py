"""The pictures and captions that pre-training sees: what the tasks show, and nothing of validation or test.

A long caption adds to a portrait's what kind of thing it is and which colours it has:
`noto, red apple, food fruit, red and green`. Scenes say places and sizes already.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.emoji.pack import FOLDER, Pack, Portrait, read_index, read_pictures
from mtdiff.data.emoji.scenes import COLOURS
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.rng import numpy_rng
from mtdiff.types import Record, Split

LEAST_SHARE = 0.15
"""Of a drawing's opaque pixels; a colour with less is not named."""


def to_float(images: Tensor) -> Tensor:
    """Bytes (B, 3, H, W) -> [-1, 1]."""
    return images.float() / 127.5 - 1


def hash_data(folder: Path = FOLDER) -> str:
    """Digest of the pictures and of their index; a training state of other data is refused."""
    digest = hashlib.sha256()
    digest.update(read_index(folder))
    digest.update(read_pictures(folder))
    return digest.hexdigest()[:16]


class Records:
    """Pictures of some splits in a random order.

    portraits: share of canonical portraits, each drawing as often as any other; the rest is as the source draws
    training records: half scenes of one to three emoji, the others single, with the backgrounds that tasks show.
    """

    def __init__(self, source: EmojiSource, splits: Sequence[Split], seed: int, portraits: float) -> None:
        self.source, self.splits, self.seed, self.share = source, tuple(splits), seed, portraits
        self.portraits = [p for s in splits for p in source.portraits(s)]

    def draw(self, *key: int | str) -> Record:
        rng = numpy_rng(self.seed, *key)
        if rng.random() < self.share:
            return self.portrait(int(rng.integers(len(self.portraits))))
        split = self.splits[rng.integers(len(self.splits))]
        return self.source.record("picture", split, int(rng.integers(self.source.size("picture", split))), rng)

    def portrait(self, index: int) -> Record:
        """The canonical picture of one drawing."""
        portrait = self.portraits[index]
        return self.source.portrait(portrait.style, portrait.stem)

    def draw_batch(self, size: int, *key: int | str) -> tuple[Tensor, list[str]]:
        """Pictures (size, 3, H, W) in [-1, 1] and their captions."""
        return stack_records([self.draw(*key, i) for i in range(size)])


def stack_records(records: Sequence[Record]) -> tuple[Tensor, list[str]]:
    """Pictures (n, 3, H, W) in [-1, 1] and captions."""
    return to_float(torch.stack([r.image for r in records])), [r.caption for r in records]


def stack_portraits(source: EmojiSource, split: Split) -> tuple[Tensor, list[str]]:
    """Every canonical portrait of a split, and its caption."""
    return stack_records([source.portrait(p.style, p.stem) for p in source.portraits(split)])


def describe_portrait(pack: Pack, portrait: Portrait) -> str:
    """The long caption of a canonical picture."""
    kind = portrait.emoji.subcategory.replace("-", " ")
    return ", ".join([portrait.caption, kind, " and ".join(name_colours(pack, portrait))])


def name_colours(pack: Pack, portrait: Portrait) -> list[str]:
    """The one to three colours that most pixels of a drawing are nearest to."""
    sprite = pack.sprite(portrait.style, portrait.stem, 32).reshape(-1, 4)
    opaque = sprite[sprite[:, 3] > 127].astype(np.int64)
    distance = ((opaque[:, None, :3] - np.array(list(COLOURS.values()))) ** 2).sum(2)
    counts = np.bincount(distance.argmin(1), minlength=len(COLOURS))
    order = [k for k in counts.argsort()[::-1][:3].tolist() if counts[k] >= LEAST_SHARE * len(opaque)]
    return [list(COLOURS)[k] for k in order or [int(counts.argmax())]]
