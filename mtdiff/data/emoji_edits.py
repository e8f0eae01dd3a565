"""Edits of emoji pictures: which emoji may turn into which, what to call it, and the pictures before and after.

Source and target share everything that the instruction does not name: background, places, sizes, other emoji.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from types import MappingProxyType

import numpy as np

from mtdiff.data.emoji_compose import Composer, choose, random_background, random_spots, shuffled
from mtdiff.data.emoji_pack import Emoji, Pack, Portrait, combination
from mtdiff.data.emoji_scenes import COLOURS, PLACES, Item, Scene
from mtdiff.types import Split

# {it}: `it` or `the name`. {a}: what comes, with its article. Others: the word that changes.
TEMPLATES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "skin tone": (
            "give {it} a {tone} skin tone",
            "change the skin tone of {it} to {tone}",
            "make the skin tone of {it} {tone}",
            "redraw {it} with {tone} skin tone",
        ),
        "gender": (
            "make {it} a {gender}",
            "turn {it} into a {gender}",
            "change {it} to a {gender}",
            "redraw {it} as a {gender}",
        ),
        "style": (
            "redraw in {style} style",
            "change the style to {style}",
            "make it look like {style}",
            "turn this into {style} style",
        ),
        "colour": (
            "turn {it} {word}",
            "make {it} {word}",
            "change the colour of {it} to {word}",
            "paint {it} {word}",
        ),
        "mood": (
            "make {it} look {word}",
            "change the mood of {it} to {word}",
            "turn {it} into {a}",
            "give {it} the mood {word}",
        ),
        "time": (
            "change the time to {word}",
            "set {it} to {word}",
            "make the time {word}",
            "turn {it} to {word}",
        ),
        "word": (
            "turn {it} into {a}",
            "change {it} to {a}",
            "make {it} {a}",
            "change {old} to {word}",
        ),
        "add": (
            "add {a} {place}",
            "put {a} {place}",
            "place {a} {place}",
            "draw {a} {place}",
        ),
        "remove": (
            "remove {it}",
            "delete {it}",
            "erase {it}",
            "take away {it}",
        ),
        "replace": (
            "replace {it} with {a}",
            "swap {it} for {a}",
            "put {a} instead of {it}",
            "exchange {it} for {a}",
        ),
        "move": (
            "move {it} to the {place}",
            "shift {it} to the {place}",
            "bring {it} to the {place}",
            "slide {it} to the {place}",
        ),
    }
)
KINDS = tuple(TEMPLATES)
COMPOSED = ("add", "remove", "replace", "move")
"""Kinds that change what a scene holds; the others change one emoji, alone or among others."""
WORDED = ("colour", "mood", "time", "word")
"""Kinds between two emoji whose official names differ in one word (or in the time that a clock shows)."""

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


@dataclass(frozen=True)
class Edit:
    before: Scene
    after: Scene
    instruction: str

    @property
    def key(self) -> str:
        return f"{self.before.key}>{self.after.key}"


# Words


def article(noun: str) -> str:
    """`a cat`, `an apple`, `grapes`."""
    head = re.split(" with | in | on | of |: ", noun)[0]
    if head.endswith("s") and not head.endswith(("ss", "us", "is", "aries", "ess", "lens")):
        return noun
    return ("an " if noun[0] in "aeio" else "a ") + noun


def whereabouts(place: str) -> str:
    """`on the left`, `at the top left`, `in the center`."""
    return {"left": "on", "right": "on", "center": "in"}.get(place, "at") + f" the {place}"


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


def _worded(emoji: Sequence[Emoji]) -> Iterator[Change]:
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
    found["skin tone"] = [Change("skin tone", e, e) for e in own if len(e.tones) > 1]
    found["gender"] = list(_genders(own))
    found["style"] = [Change("style", e, e) for e in own] if len(pack.styles) > 1 else []
    for change in _worded(own if split == "train" else [*train, *own]):
        seen = change.source.split == change.target.split == "train"
        if seen and combination(change.source.base, change.target.base) == split:
            found[change.kind].append(change)
        elif not seen and set(words(change.target.name)) <= set(known):
            found[change.kind].append(change)
    for kind in COMPOSED:
        found[kind] = [Change(kind, e, e) for e in train]
    return found


# Before and after


@dataclass(frozen=True)
class Editor:
    """Makes the two pictures and the instruction of a change. alone: share of one-emoji pictures where both will do."""

    pack: Pack
    composer: Composer
    alone: float = 0.6

    def edit(
        self, change: Change, style: str, split: Split, rng: np.random.Generator, known: Collection[str] | None = None
    ) -> Edit:
        """known: words that instructions may use; None for any."""
        template = choose(TEMPLATES[change.kind], rng)
        if change.kind in COMPOSED:
            return self._composed(change, style, split, rng, template)
        source, target = self._portraits(change, style, rng)
        name = "clock" if change.kind == "time" else change.source.name
        nameable = known is None or set(words(name)) <= set(known)
        called = rng.random() < 0.5
        if not nameable or rng.random() < self.alone:
            before, it = self.composer.single(source, rng), f"the {name}" if nameable and called else "it"
        else:
            before, it = self._among(source, target, split, rng), f"the {name}"
        after = self._turned(before, source, target)
        return Edit(before, after, fill(template, change, it, target))

    def _portraits(self, change: Change, style: str, rng: np.random.Generator) -> tuple[Portrait, Portrait]:
        """The drawing that changes and what it becomes."""
        if change.kind == "skin tone":
            tones = [t for t in TONES if t in change.source.tones]
            old = self.composer.tone(change.source.tones, rng)
            new = choose([t for t in tones if t != old], rng)
            return Portrait(style, change.source, old), Portrait(style, change.source, new)
        if change.kind == "style":
            other = choose([s for s in self.pack.styles if s != style], rng)
            tone = self.composer.tone(change.source.tones, rng)
            return Portrait(style, change.source, tone), Portrait(other, change.source, tone)
        tone = self.composer.tone([t for t in change.source.tones if t in change.target.tones], rng)
        return Portrait(style, change.source, tone), Portrait(style, change.target, tone)

    def _among(self, source: Portrait, target: Portrait, split: Split, rng: np.random.Generator) -> Scene:
        """The source among one or two others that may stand beside the target as well."""
        pool = self.pack.of(source.emoji.split)
        if "clock face" in source.emoji.name:
            pool = tuple(e for e in pool if "clock" not in e.name)
        count = 1 + int(rng.random() < 0.4)
        others = self.composer.company(source, count, pool, split, rng, beside=[target.emoji.base])
        return self.composer.scene([source, *others], rng)

    def _turned(self, before: Scene, source: Portrait, target: Portrait) -> Scene:
        """The scene with one emoji turned into another, or with all in another style."""
        items = tuple(
            replace(i, portrait=target if i.portrait == source else replace(i.portrait, style=target.style))
            for i in before.items
        )
        return replace(before, style=target.style, items=items)

    def _composed(
        self, change: Change, style: str, split: Split, rng: np.random.Generator, template: str
    ) -> Edit:
        """Edits of what a scene holds. Outside training the picture to draw holds a combination of its split alone."""
        main = Portrait(style, change.source, self.composer.tone(change.source.tones, rng))
        held = main.emoji.base if split != "train" else None
        target, pool = main, self.pack.of("train")
        count = 1 + int(rng.random() < 0.4)
        if change.kind == "replace":
            (target,) = self.composer.company(main, 1, [e for e in pool if len(e.name.split()) <= 3][:], split, rng) or [main]
        raise NotImplementedError
