"""Maps of a scene, exact from the alpha of its emoji: what they are, and which lies over which.

A pixel belongs to the emoji that covers at least half of it. Maps are (S, S, 3) uint8, in the palettes of
`mtdiff.tasks.label_maps`.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.emoji.pack import Pack
from mtdiff.data.emoji.scenes import Item, Scene, box
from mtdiff.tasks.label_maps import EMOJI, LEVELS, read_colour

HALF = 128


def draw_labels(scene: Scene, pack: Pack, size: int) -> NDArray[np.uint8]:
    """The category of what is seen at every pixel."""
    image = np.empty((size, size, 3), np.uint8)
    image[:] = read_colour("background", EMOJI["background"])
    for item, covered in cover(scene, pack, size):
        category = item.portrait.emoji.category
        image[covered] = read_colour(category, EMOJI[category])
    return image


def draw_order(scene: Scene, pack: Pack, size: int) -> NDArray[np.uint8]:
    """The level of what is seen at every pixel: one above the highest that it covers a part of."""
    levels = np.zeros((size, size), np.intp)
    for _, covered in cover(scene, pack, size):
        levels[covered] = levels[covered].max(initial=0) + 1
    return np.array(LEVELS, np.uint8)[levels]


def cover(scene: Scene, pack: Pack, size: int) -> Iterator[tuple[Item, NDArray[np.bool_]]]:
    """Items in the order in which they are drawn, with the pixels (S, S) that each covers."""
    for item in scene.items:
        x, y, side = box(item.spot, size)
        covered = np.zeros((size, size), np.bool_)
        alpha = pack.sprite(item.portrait.style, item.portrait.stem, side)[..., 3]
        covered[y : y + side, x : x + side] = alpha >= HALF
        yield item, covered
