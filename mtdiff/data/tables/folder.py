"""Local folders of pictures with metadata, the `imagefolder` convention of `datasets`.

    folder/train/metadata.jsonl      {"file_name": "a.png", "text": "a dog"}
    folder/train/a.png               {"file_name": "a.png", "edited_file_name": "b.png", "instruction": "...", ...}

`file_name` is the column `image`, `x_file_name` the column `x`; paths are relative to the file that names them, which
may be metadata.csv or metadata.parquet too. Where there is none at all, every picture is a row that has nothing else.

Which split a row is of is said, in the words of `datasets` and in any case, by the folders on the way to any of its
pictures or by a column `split`; where no row has such a folder, by the names of the files. Test wins over validation
over training, so that no picture under a test folder is ever trained on. What nothing is said of is training data, or,
beside a training folder, left out. A folder without splits is divided by itself (`held_out`).
"""

import logging
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.tables.contents import Contents, find_blobs, list_contents
from mtdiff.data.tables.metadata import (
    FILE_NAME,
    Cells,
    Metadata,
    Names,
    open_metadata,
    picture_column,
    picture_names,
)
from mtdiff.data.tables.table import Row, Table, find_split, mend_text
from mtdiff.files.pictures import Unreadable, open_picture, upright_size
from mtdiff.types import SPLITS, Split

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listed:
    """A row of the metadata: which file, its place there, its source picture, and what split is said of it."""

    file: int
    place: int
    name: str
    split: Split | None


class Folder(Table):
    """held_out: share of the source pictures taken from training for validation and for test, where these are missing.

    Only the places of lines are kept in memory, or the names of pictures without metadata.
    """

    def __init__(self, path: str, columns: Mapping[str, str] | None = None, held_out: float = 0.05) -> None:
        super().__init__(path, columns)
        self.root = Path(path).expanduser()
        if not self.root.is_dir():
            raise ValueError(f"{path}: no such folder")
        contents = list_contents(self.root)
        self._files = self._open_files(contents)
        self._listed: set[str] = set()  # pictures that rows name, relative to the folder
        self._columns: dict[int, list[str]] = {}  # file -> its columns
        self._filled: dict[int, Counter[str]] = {}  # file -> column -> rows that have it; "" counts all rows
        listed = list(self._list_rows(contents))
        rows = assign_splits(listed)
        self._check_links(contents)
        self._rows = self._divide(rows, held_out)
        self._report(contents, len(listed) - len(rows))
        self._listed.clear()

    def size(self, split: Split) -> int:
        return len(self._rows[split])

    def names(self, split: Split) -> Sequence[str]:
        files = np.unique(self._rows[split][:, 0])
        return list(dict.fromkeys(name for file in files for name in self._columns[int(file)]))

    def serving(self, split: Split, columns: Sequence[str]) -> NDArray[np.int64] | None:
        files = [int(file) for file in np.unique(self._rows[split][:, 0])]
        if all(any(self._filled[f][c] == self._filled[f][""] for c in columns) for f in files):
            return None
        rows = (self._files[int(file)].cells(int(place)) for file, place in self._rows[split])
        return np.flatnonzero([bool(set(columns) & set(list_filled(cells))) for cells in rows])

    def read_row(self, split: Split, index: int) -> Row:
        file, place = (int(v) for v in self._rows[split][index])
        folder, cells = self._files[file].path.parent, self._files[file].cells(place)
        columns = {
            column or name: value if column is None or value is None else self._read_file(folder, value)
            for name, value in cells.items()
            for column in (picture_column(name),)
        }
        return Row(f"{folder.name}/{next(iter(picture_names(cells).values()))}#{place}", columns)

    def read_cell(self, split: Split, index: int, column: str) -> Any:
        file, place = (int(v) for v in self._rows[split][index])
        return mend_text(self._files[file].cells(place).get(column))

    def picture_size(self, split: Split, index: int, column: str) -> tuple[int, int]:
        file, place = (int(v) for v in self._rows[split][index])
        name = picture_names(self._files[file].cells(place)).get(column)
        if name is None:
            raise Unreadable(f"no picture in {column}")
        try:
            with self._find_file(self._files[file].path.parent, name).open("rb") as opened:
                return upright_size(open_picture(opened, max_pixels=2**62))
        except OSError as error:
            raise Unreadable(f"{name}: {error.strerror or error}") from None

    # Rows

    def _open_files(self, contents: Contents) -> list[Metadata]:
        """The metadata, deepest first, or the pictures themselves where there is none."""
        if contents.metadata:
            kinds = sorted({PurePosixPath(name).name for name in contents.metadata})
            if len(kinds) > 1:
                raise ValueError(f"{self.name}: {' and '.join(kinds)}: expected one kind of metadata")
            return [open_metadata(self.root / m) for m in sorted(contents.metadata, key=lambda m: -m.count("/"))]
        if not contents.pictures:
            there = "; ".join(contents.left_out()) or "nothing"
            raise ValueError(
                f"{self.name}: no metadata.jsonl there or in train/; expected one line per picture, such as "
                f'{{"file_name": "a.png", "text": "a dog"}} (there is {there})'
            )
        self.name = f"{self.name} (without metadata.jsonl)"
        return [Names(self.root / "pictures", sorted(contents.pictures))]

    def _list_rows(self, contents: Contents) -> Iterator[Listed]:
        """Every row, checked; a picture that a file in its own folder describes is not read from one further up."""
        for number, file in enumerate(self._files):
            base, described = file.path.parent.relative_to(self.root), frozenset(self._listed)
            columns: dict[str, None] = {}
            filled = self._filled[number] = Counter()
            for place, where, cells in file:
                names = _check_names(where, cells)
                paths = [(base / name).as_posix() for name in names.values()]
                columns.update(dict.fromkeys(cells))
                filled.update(["", *list_filled(cells)])
                if paths[0] not in described:
                    self._listed.update(paths)
                    aims = [aim for path in paths if (aim := contents.links.get(path))]
                    yield Listed(number, place, next(iter(names.values())), _said_split(cells, [*paths, *aims]))
            self._columns[number] = list(dict.fromkeys(picture_column(name) or name for name in columns))

    def _divide(self, rows: list[Listed], share: float) -> dict[Split, NDArray[np.int64]]:
        """Split -> (n, 2): which file, and the place in it."""
        found: dict[Split, list[tuple[int, int]]] = {s: [] for s in SPLITS}
        wanted: list[Split] = [s for s in ("validation", "test") if all(row.split != s for row in rows)]
        train = [row for row in rows if row.split == "train"]
        division = iter(self.hold_out([row.name for row in train], share, wanted))
        for row in rows:
            split = next(division) if row.split == "train" else row.split
            assert split is not None
            found[split].append((row.file, row.place))
        return {s: np.array(r, np.int64).reshape(-1, 2) for s, r in found.items()}

    # Messages

    def _check_links(self, contents: Contents) -> None:
        outside = [path for path, aim in contents.links.items() if aim is None]
        if outside and self._listed <= set(outside):
            raise ValueError(
                f"{self.name}: every picture is a link that leaves the folder ({outside[0]}); "
                "expected the folder that holds the pictures themselves, or copies of them"
            )

    def _report(self, contents: Contents, unnamed: int) -> None:
        """One line for everything that is left out."""
        phrases = contents.left_out()
        if not isinstance(self._files[0], Names):
            unlisted = len({*map(_normalise_name, contents.pictures)} - {*map(_normalise_name, self._listed)})
            phrases = [f"{unlisted} pictures that no metadata names"] * (unlisted > 0) + phrases
        if unnamed:
            phrases = [f"{unnamed} rows in no folder of train, validation or test", *phrases]
        if phrases:
            log.warning("%s: left out: %s", self.name, "; ".join(phrases))

    # Files

    def _find_file(self, folder: Path, name: str) -> Path:
        """The file of a name, also where its accents are encoded in another way; Unreadable outside of the data set."""
        spellings = (name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
        try:
            path = next((p for s in spellings if (p := folder / s).exists()), folder / name).resolve()
        except (ValueError, RuntimeError) as error:  # a name that no file can have, or links in a circle
            raise Unreadable(f"{name!r}: {error}") from None
        blobs = find_blobs(self.root.resolve())
        if path.is_relative_to(self.root.resolve()) or (blobs is not None and path.is_relative_to(blobs)):
            return path
        raise Unreadable(f"{name}: a link that leaves the folder")

    def _read_file(self, folder: Path, name: str) -> bytes:
        try:
            return self._find_file(folder, name).read_bytes()
        except OSError as error:
            raise Unreadable(f"{name}: {error.strerror or error}") from None


def list_filled(cells: Cells) -> list[str]:
    """Columns of a row that hold something."""
    return [picture_column(name) or name for name, value in cells.items() if value is not None]


def assign_splits(rows: Sequence[Listed]) -> list[Listed]:
    """Rows with their splits: training where nothing is said, unless a training folder says what is."""
    if all(row.split is None for row in rows):  # `datasets` looks at the names of files then
        return [replace(row, split=find_split([PurePosixPath(row.name).stem]) or "train") for row in rows]
    train = any(row.split == "train" for row in rows)
    return [replace(row, split=row.split or "train") for row in rows if row.split is not None or not train]


def _check_names(where: str, cells: Cells) -> dict[str, str]:
    """The pictures that a row names, none of them outside of the folder."""
    for name, value in cells.items():
        if picture_column(name) is not None and value is not None and not _is_below(value):
            raise ValueError(f"{where}: {name}={value!r} leaves the folder; expected a path below it")
    names = picture_names(cells)
    if not names:
        raise ValueError(f"{where}: expected an object with the key `{FILE_NAME}`")
    return names


def _is_below(value: Any) -> bool:
    """Whether a relative path stays below its folder, by its text alone."""
    if not isinstance(value, str) or "\\" in value or "://" in value:
        return False
    path = PurePosixPath(value)
    return not path.is_absolute() and ".." not in path.parts


def _said_split(cells: Cells, paths: Sequence[str]) -> Split | None:
    """What a column `split` and the folders of a row's pictures say."""
    column = cells.get("split")
    folders = [part for path in paths for part in PurePosixPath(path).parts[:-1]]
    return find_split([*folders, column] if isinstance(column, str) else folders)


def _normalise_name(name: str) -> str:
    """One spelling of names that differ only in how accents are encoded."""
    return unicodedata.normalize("NFC", name)
