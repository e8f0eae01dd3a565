"""Which emoji may turn into which by an edit, for every kind of edit and split, and how an epoch goes through them."""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, permutations
from math import ceil

from mtdiff.data.emoji.pack import Emoji, Pack, combination
from mtdiff.data.emoji.scenes import COLOURS
from mtdiff.types import Split

KINDS = ("skin tone", "gender", "style", "colour", "mood", "time", "word", "add", "remove", "replace", "move")
COMPOSED = ("add", "remove", "replace", "move")
"""Kinds that change what a scene holds; the others change one emoji, alone or among others."""
LONGEST = 50_000
"""Edits in a training epoch, at most."""
NAMED = 5
"""Only emoji whose names have at most this many words are added, removed, replaced or moved."""

TONES = {"": "yellow", **{t: t for t in ("light", "medium light", "medium", "medium dark", "dark")}}
FEMALE, MALE = {"woman", "princess", "mermaid", "mother", "dancer"}, {"man", "prince", "merman", "father"}
# Bases whose genders are not told apart by one person's word, and names that hide the gender drawn.
_NO_GENDER = {"", "1f46a", "1f46b", "1f491", "1f48f", "1f46f", "1f93c"}
_UNCLEAR = {"man with turban", "bride with veil"}
_NO_MOOD = {"face-costume", "face-hat", "face-glasses"}


@dataclass(frozen=True)
class Change:
    """What may change in one step: `source` becomes `target` (the same emoji where only its look or place changes)."""

    kind: str
    source: Emoji
    target: Emoji
    word: str = ""
    old: str = ""


def words(text: str) -> list[str]:
    return re.findall(r"[^\s,]+", text)


def one_word(a: str, b: str) -> tuple[str, str] | None:
    """The two words in which names of two or more words differ, if it is exactly one."""
    differing = [(x, y) for x, y in zip(a.split(), b.split(), strict=False) if x != y]
    same_length = len(a.split()) == len(b.split()) >= 2
    return differing[0] if same_length and len(differing) == 1 else None


# What may change into what


def gender(emoji: Emoji) -> str:
    """`woman`, `man` or `person`; `girl`, `boy` or `child` of the child."""
    named = set(emoji.name.replace(":", "").split())
    if emoji.base == "1f9d2":
        return emoji.name
    return "woman" if named & FEMALE else "man" if named & MALE else "person"


def _genders(emoji: Sequence[Emoji]) -> Iterator[Change]:
    groups = defaultdict(list)
    for e in emoji:
        if e.category == "People & Body" and e.base not in _NO_GENDER and e.name not in _UNCLEAR:
            groups[e.base, "facing right" in e.name].append(e)
    for group in groups.values():
        for a, b in permutations(group, 2):
            if gender(a) != gender(b):
                yield Change("gender", a, b, gender(b))


def _family(emoji: Emoji) -> str:
    """Emoji of one family may turn into each other by a word: moods of faces, times of clocks, a subcategory."""
    name = emoji.name
    if name.startswith("clock face "):
        return "time"
    faces = emoji.category.startswith("Smileys") and emoji.subcategory.startswith("face-")
    if faces and emoji.subcategory not in _NO_MOOD and re.fullmatch(r"\S+ face", name):
        return "mood"
    return "mood of cats" if re.fullmatch(r"\S+ cat face", name) else f"{emoji.category}/{emoji.subcategory}"


def _list_worded(emoji: Sequence[Emoji]) -> Iterator[Change]:
    """Ordered pairs of different bases; person, gender and family words are left to `gender`."""
    families = defaultdict(list)
    for e in emoji:
        families[_family(e)].append(e)
    for family, members in families.items():
        kind = family.split(" of ")[0] if family.startswith(("mood", "time")) else ""
        for a, b in permutations(members, 2):
            if kind == "time":
                yield Change("time", a, b, b.name.removeprefix("clock face "))
            elif a.base != b.base and (pair := one_word(a.name, b.name)) is not None:
                plain = set(pair) <= set(COLOURS) and a.category != "People & Body"
                yield Change(kind or ("colour" if plain else "word"), a, b, word=pair[1], old=pair[0])


def changes(pack: Pack, split: Split, known: Collection[str] = ()) -> dict[str, list[Change]]:
    """All changes of a split by kind.

    train: between training emoji in combinations that are not held out. Others: changes of this split's own emoji, as
    long as every word for what is new is `known` from training, and held-out combinations of training emoji.
    """
    own, train = pack.of(split), pack.of("train")
    found: dict[str, list[Change]] = {kind: [] for kind in KINDS}
    found["skin tone"] = [Change("skin tone", e, e) for e in own if len(TONES.keys() & e.tones.keys()) > 1]
    found["gender"] = list(_genders(own))
    found["style"] = [Change("style", e, e) for e in own] if len(pack.styles) > 1 else []
    for change in _list_worded(own if split == "train" else [*train, *own]):
        if change.source.split == change.target.split == "train":
            fits = combination(change.source.base, change.target.base) == split
        else:
            fits = set(words(change.target.name)) <= set(known)
        if fits:
            found[change.kind].append(change)
    for kind in COMPOSED:
        found[kind] = [Change(kind, e, e) for e in list_nameable(pack)]
    return found


def list_nameable(pack: Pack) -> list[Emoji]:
    """The emoji that are added, removed, replaced and moved: training emoji, in held-out combinations when tested."""
    return [e for e in pack.of("train") if len(e.name.split()) <= NAMED]


# How an epoch goes through them


@dataclass(frozen=True)
class Plan:
    """changes: by kind. counts: how many edits of each kind an epoch holds."""

    changes: dict[str, list[Change]]
    counts: dict[str, int]
    ends: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.ends[-1]

    def change(self, place: int) -> Change:
        """The change at a place of the epoch: kind after kind, each going evenly through its changes."""
        at = bisect_right(self.ends, place) - 1
        kind = list(self.counts)[at]
        options, local, count = self.changes[kind], place - self.ends[at], self.counts[kind]
        return options[local * len(options) // count if count < len(options) else local % len(options)]


def plan(found: Mapping[str, list[Change]], weights: Mapping[str, float], size: int | None = None) -> Plan:
    """About `size` edits by weight, or without it as many as it takes (at most LONGEST) to hold every change.

    Kinds of which a split has no change leave their share to the others.
    """
    used = {kind: found[kind] for kind in weights if found[kind]}
    total = sum(weights[k] for k in used)
    needed = max((ceil(len(used[k]) * total / weights[k]) for k in used), default=0)
    size = min(LONGEST, needed) if size is None else size
    counts = {k: round(weights[k] / total * size) for k in used}
    return Plan(used, counts, (0, *accumulate(counts.values())))
