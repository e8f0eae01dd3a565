"""Edits of emoji pictures: the pictures before and after a change, and what to say for it.

Source and target share everything that the instruction does not name: background, places, sizes, other emoji.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from mtdiff.data.emoji.changes import COMPOSED, TONES, Change, words
from mtdiff.data.emoji.compose import CLASSES, Composer, choose, random_background, random_spots, shuffle_options
from mtdiff.data.emoji.pack import Pack, Portrait
from mtdiff.data.emoji.scenes import COLOURS, PLACES, TEXTURES, Item, Scene
from mtdiff.types import Split

_ONE = {"man", "woman", "person", "baby", "couple", "latin", "orthodox"}  # one thing, whatever letter it ends in

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
            "make {it} {word}",
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
    one = head.split()[0] in _ONE or head.endswith(("ss", "us", "is", "aries"))
    if head.endswith("s") and not one:
        return noun
    return ("an " if re.match("[ai]|hour|e(?!u)|o(?!ne)|u(?!ni|s)", noun) else "a ") + noun


def whereabouts(place: str) -> str:
    """`on the left`, `at the top left`, `in the center`."""
    return {"left": "on", "right": "on", "center": "in"}.get(place, "at") + f" the {place}"


# Before and after


def _slots(change: Change, target: Portrait) -> dict[str, str]:
    """The words of a change of one emoji that its templates may use."""
    return {
        "tone": TONES.get(target.tone, target.tone),
        "style": target.style,
        "gender": change.word,
        "word": change.word,
        "old": change.old,
        "a": article(change.target.name),
    }


@dataclass(frozen=True)
class Editor:
    """Makes the two pictures and the instruction of a change. alone: share without other emoji where both will do."""

    pack: Pack
    composer: Composer
    alone: float = 0.6

    def edit(
        self, change: Change, style: str, split: Split, rng: np.random.Generator, known: Collection[str] | None = None
    ) -> Edit:
        """known: words that instructions may use; None for any."""
        seen = known is None or change.old in known
        template = choose([t for t in TEMPLATES[change.kind] if seen or "{old}" not in t], rng)
        if change.kind in COMPOSED:
            return self._compose_edit(change, style, split, rng, template)
        source, target = self._portraits(change, style, rng)
        name = "clock" if change.kind == "time" else change.source.name
        nameable = known is None or set(words(name)) <= set(known)
        called = rng.random() < 0.5
        if not nameable or rng.random() < self.alone:
            before, it = self.composer.make_single(source, rng), f"the {name}" if nameable and called else "it"
        else:
            before, it = self._place_among(source, target, split, rng), f"the {name}"
        return Edit(before, replace_portrait(before, source, target), fill(template, it, **_slots(change, target)))

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

    def _place_among(self, source: Portrait, target: Portrait, split: Split, rng: np.random.Generator) -> Scene:
        """The source among one or two others that may stand beside the target as well."""
        pool = self.pack.of(source.emoji.split)
        if "clock face" in source.emoji.name:
            pool = tuple(e for e in pool if "clock" not in e.name)
        count = 1 + int(rng.random() < 0.4)
        others = self.composer.choose_company(source, count, pool, split, rng, beside=[target.emoji.base])
        return self.composer.scene([source, *others], rng)

    def _compose_edit(self, change: Change, style: str, split: Split, rng: np.random.Generator, template: str) -> Edit:
        """Edits of what a scene holds. Outside training, main emoji and first companion are a held-out combination."""
        main = Portrait(style, change.source, self.composer.tone(change.source.tones, rng))
        held, pool = split != "train", self.pack.of("train")
        if change.kind == "move":
            least = int(held or rng.random() < 0.7)
            return self._move_main(
                main, self.composer.choose_company(main, least, pool, split, rng, least, held), rng, template
            )
        count = 1 + int(rng.random() < 0.5)
        if change.kind == "replace":
            (new,) = self.composer.choose_company(main, 1, pool, split, rng, least=1)
            others = self.composer.choose_company(new, count, pool, split, rng, 1, held, beside=[main.emoji.base])
            full = self.composer.scene([main, *others], rng)
            return Edit(full, replace_portrait(full, main, new), fill(template, it=main, a=article(new.noun)))
        others = self.composer.choose_company(main, count, pool, split, rng, 1, held)
        full = self.composer.scene([main, *others], rng)
        item = next(i for i in full.items if i.portrait == main)
        rest = replace(full, items=tuple(i for i in full.items if i != item))
        if change.kind == "remove":
            return Edit(full, rest, fill(template, it=main))
        noun = f"{item.spot.word} {main.noun}".strip()
        return Edit(rest, full, fill(template, a=article(noun), place=whereabouts(item.spot.place)))

    def _move_main(self, main: Portrait, others: list[Portrait], rng: np.random.Generator, template: str) -> Edit:
        *spots, spare = random_spots(1 + len(others), rng, spare=True)
        items = shuffle_options([Item(*both) for both in zip([main, *others], spots, strict=True)], rng)
        before = Scene(main.style, tuple(items), random_background(rng))
        moved = tuple(replace(i, spot=spare) if i.portrait == main else i for i in items)
        return Edit(before, replace(before, items=moved), fill(template, it=main, place=spare.place))


def replace_portrait(before: Scene, source: Portrait, target: Portrait) -> Scene:
    """The scene with one emoji turned into another; all others take the target's style."""
    items = tuple(
        replace(i, portrait=target if i.portrait == source else replace(i.portrait, style=target.style))
        for i in before.items
    )
    return replace(before, style=target.style, items=items)


def fill(template: str, it: str | Portrait = "it", **words: str) -> str:
    """A template in words. it: `it`, `the name`, or the emoji to name."""
    return template.format(it=it if isinstance(it, str) else f"the {it.emoji.name}", **words)


# Everything that may be said


def captions(portraits: Sequence[Portrait]) -> Iterator[str]:
    """Captions of portraits, their parts in scenes (sizes and places by turns), and all backgrounds."""
    sizes, places = sorted({w for classes in CLASSES.values() for c in classes for w in c}), list(PLACES)
    for i, p in enumerate(portraits):
        yield p.caption
        yield f"{p.style}, {sizes[i % len(sizes)]} {p.noun} {places[i % len(places)]}".replace("  ", " ")
    for colour in COLOURS:
        yield f"on {colour}"
        yield from (f"on {colour} to {other}" for other in COLOURS if other != colour)
        yield from (f"on {colour} {texture}" for texture in TEXTURES)


def instructions(pack: Pack, changes: Mapping[str, Iterable[Change]]) -> Iterator[str]:
    """Every wording of every change (`add` and `move`: one place each, by turns)."""
    for kind, options in changes.items():
        nouns = [c.target.name for c in options]
        for i, change in enumerate(options):
            place = list(PLACES)[i % len(PLACES)]
            slots = {"style": pack.styles[i % len(pack.styles)], "place": place}
            if kind == "add":
                slots["place"] = whereabouts(place)
            if kind == "replace":
                slots["a"] = article(nouns[i - 1])
            for it in list_references(kind, change):
                for tone in TONES if kind == "skin tone" else ("",):
                    target = Portrait(pack.styles[0], change.target, tone if tone in change.target.tones else "")
                    for template in TEMPLATES[kind]:
                        yield fill(template, it, **{**_slots(change, target), **slots})


def list_references(kind: str, change: Change) -> tuple[str, ...]:
    """What instructions may call the emoji that changes: by name, or `it` where it may be alone."""
    named = "the clock" if kind == "time" else f"the {change.source.name}"
    return (named,) if kind in COMPOSED else ("it", named)
