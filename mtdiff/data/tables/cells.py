"""What the cells of a table's rows become: a picture of the wanted shape, a text, the name of a class."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtdiff.data.tables.table import text_of
from mtdiff.files.pictures import Unreadable


def crop_to(image: Image.Image, height: int, width: int, exact: bool = False) -> Tensor:
    """(3, height, width) uint8: the largest centred part of that shape, resized (bicubic, antialiased).

    exact: take the nearest pixel's colour and mix none.
    """
    scale = min(image.width / width, image.height / height)  # pixels of the picture to one of the result
    cut_width, cut_height = min(image.width, round(width * scale)), min(image.height, round(height * scale))
    left, top = (image.width - cut_width) // 2, (image.height - cut_height) // 2
    cut = image.crop((left, top, left + cut_width, top + cut_height))  # nothing beside it bleeds in
    resized = cut.resize((width, height), Image.Resampling.NEAREST if exact else Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())


def draw_text(value: Any, rng: np.random.Generator) -> str:
    """One text of a cell, drawn where there are several; "" where there is none."""
    texts = text_of(value)
    return texts[0 if len(texts) == 1 else int(rng.integers(len(texts)))] if texts else ""


def read_label(value: Any) -> str:
    """The name of a row's class, a text or a whole number; Unreadable where there is none, or several."""
    texts = text_of(str(value) if isinstance(value, int) else value)
    if len(texts) != 1:
        raise Unreadable(f"{len(texts)} labels, expected one")
    return texts[0]
