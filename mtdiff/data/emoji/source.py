"""Designer-drawn emoji with their official names: pictures, scenes, edits and removals (`docs/data.md`).

What a record shows is a pure function of (need, split, index) and of the generator's state.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import cached_property
from math import gcd
from types import MappingProxyType
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.emoji.changes import KINDS, Change, Plan, list_nameable
from mtdiff.data.emoji.compose import Composer, choose
from mtdiff.data.emoji.edits import Edit, Editor
from mtdiff.data.emoji.maps import draw_labels, draw_order
from mtdiff.data.emoji.pack import Emoji, Portrait, open_pack
from mtdiff.data.emoji.plans import find_known_words, list_portraits, list_texts, plan_edits
from mtdiff.data.emoji.references import NAMES, SceneReferences
from mtdiff.data.emoji.scenes import Scene, canonical, draw
from mtdiff.data.source import Source
from mtdiff.rng import numpy_rng
from mtdiff.types import SPLITS, Gallery, Need, Record, Split

WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "skin tone": 0.10,
        "gender": 0.08,
        "style": 0.10,
        "colour": 0.08,
        "mood": 0.08,
        "time": 0.06,
        "word": 0.10,
        "add": 0.10,
        "remove": 0.10,
        "replace": 0.10,
        "move": 0.10,
    }
)
"""Default shares of the kinds of edit."""
MAPS: Mapping[Need, Sequence[int]] = {"labels": (0, 1, 1, 2), "order": (1, 2, 2)}
"""Kinds of record with a map, whose emoji lie over each other; how many there are beside the main one."""


class EmojiSource(Source):
    """size: side of the pictures in pixels. styles: designers. tones: whether to use skin tones.

    scenes: share of composed scenes among `picture` and `caption` records (held-out combinations are always scenes).
    white: share of canonical portraits, alone on white, among single emoji; the others have backgrounds.
    plain_tone: how often an emoji that has skin tones is drawn without one.
    edits: share of each kind of edit; kinds left out do not occur.
    """

    def __init__(
        self,
        size: int = 64,
        styles: Sequence[str] = ("noto", "twemoji"),
        tones: bool = True,
        scenes: float = 0.5,
        white: float = 0.6,
        plain_tone: float = 0.5,
        edits: Mapping[str, float] = WEIGHTS,
    ):
        if not isinstance(size, int) or size < 16:
            raise ValueError(f"size={size!r}: expected a whole number of at least 16")
        self._arguments = (size, tuple(styles), tones, scenes, white, plain_tone, dict(edits))
        self.side, self.scenes = size, _share("scenes", scenes)
        self.pack = open_pack(tuple(styles), tones)
        self.composer = Composer(_share("white", white), _share("plain_tone", plain_tone))
        self.editor = Editor(self.pack, self.composer)
        self.edits = _weights(edits)

    def __reduce__(self) -> Any:
        return type(self), self._arguments  # workers find everything else out again

    # What it offers

    def size(self, need: Need, split: Split) -> int:
        _one_of("need", need, get_args(Need))
        _one_of("split", split, SPLITS)
        if need == "edit":
            return self._plan(split).size
        return len(self._pool(need, split)) * len(self.pack.styles)

    def record(self, need: Need, split: Split, index: int, rng: np.random.Generator) -> Record:
        place = self._place(need, split, index)
        if need == "edit":
            change, style = self._plan(split).change(place), choose(self.pack.styles, rng)
            known = None if split == "train" else self._known
            return self._pair(change.kind, self.editor.edit(change, style, split, rng, known))
        if need == "removal":
            style, emoji = self._main(need, split, place)
            return self._pair("remove", self.editor.edit(Change("remove", emoji, emoji), style, split, rng))
        scene = self._compose(need, split, place, rng)
        plain = Record(self.draw(scene), scene.caption, scene.key)
        if need == "label":
            return replace(plain, label=self._main(need, split, place)[1].subcategory)
        if need in MAPS:
            return replace(plain, map=self._map(need, scene))
        key = int(deepcopy(rng).integers(2**62))  # what the task draws from `rng` stays the same
        pool, styles = self._pool(need, split), self.pack.styles
        return replace(plain, reference=SceneReferences(scene, plain.image, pool, styles, self.draw, key))

    def reference_names(self, need: Need, split: Split) -> Sequence[str]:
        if need not in ("picture", "caption"):
            return ()
        possible = {"object": len(self.pack.styles) > 1, "style": True, "tone": self.pack.tones}
        return [name for name in NAMES if possible[name]]

    def scene(self, kind: Need, split: Split, index: int, rng: np.random.Generator) -> Scene:
        """The scene that record `index` of `picture`, `caption`, `labels` or `order` shows."""
        _one_of("kind", kind, ("picture", "caption", *MAPS))
        return self._compose(kind, split, self._place(kind, split, index), rng)

    def portrait(self, style: str, stem: str) -> Record:
        """The canonical picture of one drawing: alone, centred, nearly filling the frame, on white."""
        if (style, stem) not in self._by_stem:
            raise ValueError(f"style={style!r}, stem={stem!r}: no such picture in {', '.join(self.pack.styles)}")
        scene = canonical(self._by_stem[style, stem])
        return Record(self.draw(scene), scene.caption, scene.key)

    def gallery(self, split: Split, number: int) -> Gallery:
        """Canonical portraits, no two of one base, by designers in turn; the label is the designer."""
        rng, chosen = numpy_rng("gallery", split), dict[str, Portrait]()
        emoji = self.pack.of(split)
        for i in rng.permutation(len(emoji)).tolist():
            style = self.pack.styles[len(chosen) % len(self.pack.styles)]
            chosen.setdefault(emoji[i].base, Portrait(style, emoji[i], choose(list(emoji[i].tones), rng)))
        portraits = list(chosen.values())[:number]
        return Gallery([self.portrait(p.style, p.stem) for p in portraits], [p.style for p in portraits])

    def portraits(self, split: Split) -> list[Portrait]:
        """Every drawing of a split: style x emoji x tone."""
        return list_portraits(self.pack, split)

    def texts(self, split: Split) -> list[str]:
        """All that a tokenizer should know, each once: captions, their parts, and every instruction filled in."""
        return list_texts(self.pack, tuple(self.edits.items()), split)

    def list_classes(self) -> list[str]:
        """The subcategories of the training emoji."""
        return sorted({emoji.subcategory for emoji in self.pack.of("train")})

    # Choosing

    @cached_property
    def _by_stem(self) -> dict[tuple[str, str], Portrait]:
        return {(p.style, p.stem): p for s in SPLITS for p in self.portraits(s)}

    @property
    def _known(self) -> frozenset[str]:
        return find_known_words(self.pack, tuple(self.edits.items()))

    def _plan(self, split: Split) -> Plan:
        return plan_edits(self.pack, tuple(self.edits.items()), split)

    @cached_property
    def _removable(self) -> list[Emoji]:
        return list_nameable(self.pack)

    def _pool(self, need: Need, split: Split) -> Sequence[Emoji]:
        """Main emoji of a split's records: its own, or training emoji where a name or a combination is tested."""
        if need == "removal":
            return self._removable
        return self.pack.of(split if need in ("picture", "label", *MAPS) else "train")

    def _place(self, need: Need, split: Split, index: int) -> int:
        """Where record `index` stands in its pool or plan: neighbours differ in kind, style and category."""
        count = self.size(need, split)
        if not 0 <= index < count:
            raise IndexError(f"index={index}: `{need}` of `{split}` has {count} records")
        return index * _stride(count) % count

    def _main(self, need: Need, split: Split, place: int) -> tuple[str, Emoji]:
        """Style and main emoji at a place of the pool."""
        pool = self._pool(need, split)
        return self.pack.styles[place // len(pool)], pool[place % len(pool)]

    def _compose(self, need: Need, split: Split, place: int, rng: np.random.Generator) -> Scene:
        """A single emoji or a scene of one to three; a label is of a single one, and captions of held-out splits always
        show a held-out combination."""
        style, emoji = self._main(need, split, place)
        main = Portrait(style, emoji, self.composer.tone(emoji.tones, rng))
        if need in MAPS:
            others = self.composer.choose_company(main, choose(MAPS[need], rng), self._pool(need, split), split, rng)
            return self.composer.pile([main, *others], rng)
        held = need == "caption" and split != "train"
        if need == "label" or (not held and rng.random() >= self.scenes):
            return self.composer.make_single(main, rng)
        companions = choose((1, 1, 2) if held else (0, 1, 1, 1, 2, 2), rng)
        pool = self._pool(need, split)
        others = self.composer.choose_company(main, companions, pool, split, rng, least=int(held), held=held)
        return self.composer.scene([main, *others], rng)

    # Drawing

    def draw(self, scene: Scene) -> Tensor:
        """The picture of a scene, (3, S, S) uint8."""
        return torch.from_numpy(np.ascontiguousarray(draw(scene, self.pack, self.side).transpose(2, 0, 1)))

    def _map(self, need: Need, scene: Scene) -> Tensor:
        """The map of a scene, (3, S, S) uint8."""
        drawn = (draw_labels if need == "labels" else draw_order)(scene, self.pack, self.side)
        return torch.from_numpy(np.ascontiguousarray(drawn.transpose(2, 0, 1)))

    def _pair(self, kind: str, edit: Edit) -> Record:
        before, after = edit.before, edit.after
        images = self.draw(before), self.draw(after)
        return Record(images[0], before.caption, edit.key, kind, images[1], edit.instruction, after.caption)


def _one_of(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: expected one of {', '.join(allowed)}")


def _share(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"{name}={value!r}: expected a share in [0, 1]")
    return value


def _weights(edits: Mapping[str, float]) -> dict[str, float]:
    """The positive weights, in the order of KINDS."""
    for kind, weight in edits.items():
        _one_of("edits", kind, KINDS)
        if not 0 <= weight < float("inf"):
            raise ValueError(f"edits: {kind}={weight!r}: expected a share of at least 0")
    return {k: edits[k] for k in KINDS if edits.get(k)}


def _stride(count: int) -> int:
    """A step that visits `count` places once each, near the golden section, so that any beginning is spread evenly."""
    step = max(1, round(count * 0.618))
    while gcd(step, count) > 1:
        step += 1
    return step
