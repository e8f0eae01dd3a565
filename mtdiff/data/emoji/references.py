"""Reference pictures of an emoji scene: canonical portraits that show one thing of what the scene shows.

object    the same emoji as another designer drew it
style     another emoji by the scene's own designer
tone      another emoji of the same skin tone, by any designer; for an emoji that has one

A reference is never the picture itself, and it is drawn when it is asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from mtdiff.data.emoji.compose import choose, shuffle_options
from mtdiff.data.emoji.pack import Emoji, Portrait
from mtdiff.data.emoji.scenes import Scene, canonical
from mtdiff.rng import numpy_rng
from mtdiff.types import Reference

NAMES = ("object", "style", "tone")
TRIES = 20
"""Emoji that are tried for a reference that differs from the picture."""


class SceneReferences(Mapping[str, Reference]):
    """The references of one picture, by name; those that the scene can have.

    image: the picture, (3, S, S) uint8. pool: emoji that others are chosen from. styles: designers. draw: of a scene.
    key: decides what is chosen. Where a scene holds several emoji, its first is the one that a reference shows.
    """

    def __init__(
        self,
        scene: Scene,
        image: Tensor,
        pool: Sequence[Emoji],
        styles: Sequence[str],
        draw: Callable[[Scene], Tensor],
        key: int,
    ) -> None:
        self.scene, self.image, self.pool, self.styles, self.draw, self.key = scene, image, pool, styles, draw, key
        self.main = scene.items[0].portrait

    def __iter__(self) -> Iterator[str]:
        if len(self.styles) > 1:
            yield "object"
        yield "style"
        if self.main.tone:
            yield "tone"

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __getitem__(self, name: str) -> Reference:
        if name not in list(iter(self)):
            raise KeyError(name)
        portraits = self.list_portraits(name, numpy_rng(self.key, "reference", name))
        for portrait in portraits:
            picture = self.draw(canonical(portrait))
            if not torch.equal(picture, self.image):
                return Reference(picture, self.choose_words(name))
        raise KeyError(name)  # the scene shows nothing that could be shown by another picture

    def list_portraits(self, name: str, rng: np.random.Generator) -> Iterator[Portrait]:
        """Portraits that may serve, in a random order; a few at most."""
        main = self.main
        if name == "object":
            styles = [style for style in self.styles if style != main.style]
            yield from (Portrait(style, main.emoji, main.tone) for style in shuffle_options(styles, rng))
            return
        others = [e for e in self.pool if e.base not in self.scene.bases and (name == "style" or main.tone in e.tones)]
        for _ in range(TRIES if others else 0):
            emoji = choose(others, rng)
            tone = main.tone if name == "tone" else choose(list(emoji.tones), rng)
            yield Portrait(choose(self.styles, rng) if name == "tone" else main.style, emoji, tone)

    def choose_words(self, name: str) -> str:
        """The words of the scene's caption that say what the reference shows."""
        words = {"object": self.main.emoji.name, "style": f"{self.main.style}, "}
        return words.get(name, f" with {self.main.tone} skin tone")
