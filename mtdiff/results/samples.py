"""The sample pictures beside a result, in a folder that someone else may have made."""

import re
from pathlib import Path

from PIL import Image

from mtdiff.files import MEGABYTE, read_bytes, shown, within
from mtdiff.pictures import open_picture, to_rgb

NAME = re.compile(r"\w[\w.+-]{0,99}", re.ASCII)
MAX_PIXELS = 16_000_000
"""Of a grid; eight examples in three rows at 512 px have 6.3 million."""


def find_grid(result: Path, task: str) -> Path | None:
    """Source, answer and truth of a result's first test examples: in its run's folder, or beside a collected result.

    ValueError in one line where the task's name is none that a file of ours has, or the place leads elsewhere.
    """
    if not NAME.fullmatch(task):
        raise ValueError(f"{result}: tasks={shown(task)}: expected a name of letters, digits and `_.+-`")
    for name in (f"samples/{task}.png", f"{result.stem}-{task}.webp"):
        place = within(result.parent, name)
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
