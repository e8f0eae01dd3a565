"""Local folders of pictures with `metadata.jsonl`, the `imagefolder` convention of `datasets`.

    folder/train/metadata.jsonl      {"file_name": "a.png", "text": "a dog"}
    folder/train/a.png               {"file_name": "a.png", "edited_file_name": "b.png", "instruction": "...", ...}

`file_name` is the column `image`, `x_file_name` the column `x`; paths are relative to the file that names them. A
folder without `train/`, `validation/`, `test/` is divided by itself (`held_out`). Where there is no `metadata.jsonl` at
all, every picture is a row that has nothing else.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from mtdiff.data.tables.table import SPLIT_NAMES, Row, Table, held_out, split_named
from mtdiff.pictures import Unreadable, open_picture, upright_size
from mtdiff.types import SPLITS, Split

METADATA = "metadata.jsonl"
FILE_NAME = "file_name"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")


class Folder(Table):
    """held_out: share of the source pictures taken from training for validation and for test, where these are missing.

    Only the places of lines are kept in memory, or the names of pictures without metadata.
    """

    def __init__(self, path: str, columns: Mapping[str, str] | None = None, held_out: float = 0.05) -> None:
        super().__init__(path, columns)
        root = Path(path)
        if not root.is_dir():
            raise ValueError(f"{path}: no such folder")
        own = _parts(root, _described)
        self._bare = not own  # pictures without metadata
        if self._bare:
            self.name, own = f"{path} (without {METADATA})", _parts(root, _pictures)
        if not own:
            raise ValueError(
                f"{path}: no {METADATA} there or in train/; expected one line per picture, such as "
                '{"file_name": "a.png", "text": "a dog"}'
            )
        self._files = [(split, root / METADATA if name is None else root / name / METADATA) for split, name in own]
        self._listed = [_pictures(file.parent) if self._bare else [] for _, file in self._files]
        self._rows = self._divided([split for split, _ in own], held_out)
        self._names = {split: self._columns(split) for split in SPLITS if len(self._rows[split])}

    def size(self, split: Split) -> int:
        return len(self._rows[split])

    def names(self, split: Split) -> Sequence[str]:
        return self._names[split]

    def row(self, split: Split, index: int) -> Row:
        path, line = self._line(split, index)
        folder, cells = path.parent, {}
        for name, value in line.items():
            column = _picture_column(name)
            cells[column or name] = value if column is None or value is None else _bytes(folder, value)
        return Row(f"{folder.name}/{line[FILE_NAME]}#{self._rows[split][index][1]}", cells)

    def picture_size(self, split: Split, index: int, column: str) -> tuple[int, int]:
        path, line = self._line(split, index)
        value = line.get(FILE_NAME if column == "image" else f"{column}_{FILE_NAME}")
        if value is None:
            raise Unreadable(f"no picture in {column}")
        try:
            with _place(path.parent, value).open("rb") as file:
                return upright_size(open_picture(file, max_pixels=2**62))
        except OSError as error:
            raise Unreadable(f"{value}: {error.strerror or error}") from None

    def _line(self, split: Split, index: int) -> tuple[Path, dict[str, Any]]:
        file, start = self._rows[split][index]
        path = self._files[file][1]
        if self._bare:
            return path, {FILE_NAME: self._listed[file][start]}
        with path.open("rb") as f:
            f.seek(int(start))
            return path, json.loads(f.readline())

    def _divided(self, own: Sequence[Split], share: float) -> dict[Split, Any]:
        """Split -> (n, 2) int64: which file, and where in it the line starts (which picture, without metadata)."""
        rows: dict[Split, list[tuple[int, int]]] = {s: [] for s in SPLITS}
        wanted: list[Split] = [s for s in ("validation", "test") if s not in own]
        for k, (split, path) in enumerate(self._files):
            found = list(enumerate(self._listed[k]) if self._bare else _lines(path))
            division = held_out([name for _, name in found], share, wanted if split == "train" else ())
            for (start, _), part in zip(found, division, strict=True):
                rows[part if split == "train" else split].append((k, start))
        return {s: np.array(r, np.int64).reshape(-1, 2) for s, r in rows.items()}

    def _columns(self, split: Split) -> list[str]:
        return [_picture_column(name) or name for name in self._line(split, 0)[1]]


def _parts(root: Path, holds: Callable[[Path], Any]) -> list[tuple[Split, str | None]]:
    """The splits that a folder has, with their sub-folders; the folder itself is training data."""
    found: list[tuple[Split, str | None]] = [(s, n) for s in SPLITS for n in SPLIT_NAMES[s] if holds(root / n)]
    if not any(s == "train" for s, _ in found) and holds(root):
        return [("train", None), *found]
    return found


def _described(folder: Path) -> bool:
    return (folder / METADATA).is_file()


def _pictures(folder: Path) -> list[str]:
    """Paths of the picture files below a folder, but for those in folders named after splits."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES)
    return sorted(p.as_posix() for p in paths if len(p.parts) == 1 or split_named(p.parts[0]) is None)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Start and file name of every line, each checked."""
    with path.open("rb") as f:
        start = 0
        for number, raw in enumerate(f, 1):
            if raw.strip():
                yield start, _checked(f"{path}, line {number}", raw)
            start += len(raw)


def _checked(where: str, raw: bytes) -> str:
    try:
        line = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(line, dict) or not isinstance(line.get(FILE_NAME), str):
        raise ValueError(f"{where}: expected an object with the key `{FILE_NAME}`")
    for name, value in line.items():
        if _picture_column(name) is not None and value is not None and not _inside(value):
            raise ValueError(f"{where}: {name}={value!r} leaves the folder; expected a path below it")
    return line[FILE_NAME]


def _picture_column(name: str) -> str | None:
    """`file_name` -> `image`, `x_file_name` -> `x`, others None."""
    if name == FILE_NAME:
        return "image"
    return name.removesuffix(f"_{FILE_NAME}") if name.endswith(f"_{FILE_NAME}") else None


def _inside(value: Any) -> bool:
    """Whether a relative path stays below its folder, by its text alone."""
    if not isinstance(value, str) or "\\" in value or "://" in value:
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts


def _place(folder: Path, value: str) -> Path:
    path = (folder / value).resolve()
    if not path.is_relative_to(folder.resolve()):  # a symbolic link
        raise Unreadable(f"{value}: a link that leaves the folder")
    return path


def _bytes(folder: Path, value: str) -> bytes:
    try:
        return _place(folder, value).read_bytes()
    except OSError as error:
        raise Unreadable(f"{value}: {error.strerror or error}") from None
