"""The sample pictures beside a result, in a folder that someone else may have made."""

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtdiff.errors import shown
from mtdiff.files.pictures import open_picture, to_rgb
from mtdiff.files.reading import read_bytes, read_json, resolve_within
from mtdiff.files.writing import MEGABYTE

NAME = re.compile(r"\w[\w.+-]{0,99}", re.ASCII)
MAX_PIXELS = 16_000_000
"""Of a grid; eight examples in three rows at 512 px have 6.3 million."""
GAP = 2
"""Pixels between the pictures of a grid, and around it."""


def find_grid(result: Path, task: str) -> Path | None:
    """Source, answer and truth of a result's first test examples: in its run's folder, or beside a collected result.

    ValueError in one line where the task's name is none that a file of ours has, or the place leads elsewhere.
    """
    return find_sample(result, task, (f"samples/{task}.png", f"{result.stem}-{task}.webp"))


def find_sample(result: Path, task: str, names: tuple[str, ...]) -> Path | None:
    """The first of some files that is there. ValueError as for `find_grid`."""
    if not NAME.fullmatch(task):
        raise ValueError(f"{result}: tasks={shown(task)}: expected a name of letters, digits and `_.+-`")
    for name in names:
        place = resolve_within(result.parent, name)
        if place.is_symlink() or place.exists():
            return place
    return None


def read_grid(path: Path) -> Image.Image:
    """The grid as RGB. ValueError in one line where it is a link, no picture, damaged or too large to be one."""
    data = read_bytes(path, 64 * MEGABYTE)
    try:
        return to_rgb(open_picture(data, MAX_PIXELS))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_strips(result: Path, task: str) -> list[NDArray[np.uint8]] | None:
    """Sources, answers and truths (S, n * S, 3) of a result's test examples: of its wall, which has more of them, else
    of its grid; None where it has neither. ValueError in one line for what cannot be read."""
    path = find_sample(result, task, (f"samples/wall/{task}.png",)) or find_grid(result, task)
    if path is None:
        return None
    try:
        return cut_strips(np.asarray(read_grid(path)))
    except ValueError as error:
        raise ValueError(f"{path.name}: {str(error).removeprefix(f'{path}: ')}") from None


def cut_strips(pixels: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The three rows of a grid (3 (S + GAP) + GAP, n (S + GAP) + GAP, 3), without its gaps."""
    height, width = pixels.shape[:2]
    step = (height - GAP) // 3
    count = (width - GAP) // max(1, step)
    if step <= GAP or count < 1 or height != 3 * step + GAP or width != count * step + GAP:
        raise ValueError(f"its picture of {width} x {height} pixels is no grid of three rows of squares")
    columns = np.concatenate([np.arange(GAP + k * step, (k + 1) * step) for k in range(count)])
    return [np.ascontiguousarray(pixels[GAP + row * step : (row + 1) * step, columns]) for row in range(3)]


def read_prompts(result: Path, task: str) -> list[str]:
    """What the examples of a wall ask for, in their order; none where the folder does not say."""
    path = find_sample(result, task, (f"samples/wall/{task}.json",))
    found = None if path is None else read_json(path)
    prompts = found.get("prompts") if isinstance(found, dict) else None
    return [text for text in prompts if isinstance(text, str)] if isinstance(prompts, list) else []
