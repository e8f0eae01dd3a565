"""Small data sets in their true formats: pictures of one colour each, so that a record tells which row it is of."""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Line = dict[str, Any]


def colour(i: int) -> tuple[int, int, int]:
    """A colour of its own for each i below 1000."""
    return (25 * (i % 10) + 10, 25 * (i // 10 % 10) + 10, 25 * (i // 100) + 10)


def number(picture: Any) -> int:
    """Which i a picture (3, S, S) uint8 of one colour is of."""
    r, g, b = (round((float(v) - 10) / 25) for v in picture.float().mean((1, 2)))
    return r + 10 * g + 100 * b


def picture(i: int, width: int = 48, height: int = 32) -> Image.Image:
    return Image.new("RGB", (width, height), colour(i))


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def noise(seed: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def write_folder(folder: Path, lines: list[Line], pictures: dict[str, Image.Image]) -> Path:
    """An imagefolder: pictures and metadata.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def captioned(folder: Path, count: int, first: int = 0) -> Path:
    """Pictures with captions; row i shows colour i."""
    rows = range(first, first + count)
    lines = [{"file_name": f"{i}.png", "text": f"picture {i}"} for i in rows]
    return write_folder(folder, lines, {f"{i}.png": picture(i) for i in rows})


def pairs(folder: Path, count: int, first: int = 0) -> Path:
    """Edits: row i changes colour i to colour i + 500."""
    rows = range(first, first + count)
    lines = [
        {
            "file_name": f"{i}.png",
            "edited_file_name": f"{i}_after.png",
            "instruction": f"change {i}",
            "caption": f"before {i}",
            "edited_caption": f"after {i}",
        }
        for i in rows
    ]
    before = {f"{i}.png": picture(i) for i in rows}
    return write_folder(folder, lines, {**before, **{f"{i}_after.png": picture(i + 500) for i in rows}})


def all_four(root: Path, count: int = 12) -> dict[str, str]:
    """A folder for each kind of record."""
    makers = {"caption": captioned, "edit": pairs, "picture": captioned, "removal": pairs}
    return {need: str(make(root / need, count)) for need, make in makers.items()}


def saved(folder: Path, count: int) -> Path:
    """What `datasets` writes for edits: pictures inside Arrow files."""
    import datasets  # most that use this file need none of it

    rows = range(count)
    columns = {
        "original_image": [picture(i) for i in rows],
        "edited_image": [picture(i + 500) for i in rows],
        "edit_prompt": [f"change {i}" for i in rows],
    }
    kinds = datasets.Features(
        original_image=datasets.Image(), edited_image=datasets.Image(), edit_prompt=datasets.Value("string")
    )
    data = datasets.Dataset.from_dict(columns, features=kinds)
    datasets.DatasetDict(train=data).save_to_disk(folder)
    return folder
