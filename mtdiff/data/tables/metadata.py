"""The metadata files of `imagefolder`: metadata.jsonl, .csv and .parquet, row by row, in any encoding of Unicode."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from json import detect_encoding  # type: ignore[attr-defined]  # not in the type stubs
from pathlib import Path
from typing import Any

from mtdiff.data.tables.table import ROLES, missing_extra
from mtdiff.errors import reason

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"
Cells = dict[str, Any]


class Metadata(ABC):
    """Rows of a file at `path`, addressed by numbers (places) that need not follow each other."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[int, str, Cells]]:
        """Place of every row, where it stands (for messages), and its cells; ValueError where one is malformed."""

    @abstractmethod
    def cells(self, place: int) -> Cells:
        """One row again."""


class JsonLines(Metadata):
    """In UTF-8 only the places of lines are kept in memory; lines of other encodings are kept themselves."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        with path.open("rb") as file:
            head = file.read(4)
        self.encoding = detect_encoding(head) if head else "utf-8"
        self.lines: list[str] | None = None
        if not self.encoding.startswith("utf-8"):
            try:
                self.lines = path.read_text(self.encoding).split("\n")
            except UnicodeError as error:
                raise ValueError(f"{path}: not {self.encoding} ({reason(error)})") from None

    def __iter__(self) -> Iterator[tuple[int, str, Cells]]:
        for number, (start, raw) in enumerate(self._raw(), 1):
            if raw.strip():
                where = f"{self.path}, line {number}"
                yield start, where, _parse(where, raw)

    def cells(self, place: int) -> Cells:
        if self.lines is not None:
            return _parse(str(self.path), self.lines[place])
        with self.path.open("rb") as file:
            file.seek(place)
            return _parse(str(self.path), file.readline())

    def _raw(self) -> Iterator[tuple[int, str | bytes]]:
        """Place and content of every line, without the byte-order mark."""
        if self.lines is not None:
            yield from enumerate(self.lines)
            return
        with self.path.open("rb") as file:
            start = 3 if self.encoding == "utf-8-sig" else 0
            file.seek(start)
            for raw in file:
                yield start, raw
                start += len(raw)


def _parse(where: str, raw: str | bytes) -> Cells:
    try:
        cells = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{where}: not JSON ({error})") from None
    if not isinstance(cells, dict):
        raise ValueError(f"{where}: expected an object with the key `{FILE_NAME}`")
    return cells


class Columns(Metadata):
    """A CSV or Parquet file as `datasets` reads it, in memory; but all cells of a CSV are texts, as captions are."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import pandas
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise missing_extra("datasets") from None
        try:
            if path.suffix == ".parquet":
                self.table = pyarrow.parquet.read_table(path)
            else:
                frame = pandas.read_csv(path, dtype=str, encoding=_csv_encoding(path))
                self.table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        except (ValueError, OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{path}: cannot be read ({reason(error)})") from None

    def __iter__(self) -> Iterator[tuple[int, str, Cells]]:
        place = 0
        for batch in self.table.to_batches(max_chunksize=1024):
            for cells in batch.to_pylist():
                yield place, f"{self.path}, row {place + 1}", cells
                place += 1

    def cells(self, place: int) -> Cells:
        return self.table.slice(place, 1).to_pylist()[0]  # type: ignore[no-any-return]


def _csv_encoding(path: Path) -> str:
    """Told by the byte-order mark, as spreadsheets write it; UTF-8 without one."""
    with path.open("rb") as file:
        head = file.read(2)
    return "utf-16" if head in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


class Names(Metadata):
    """Pictures without metadata, each a row of its own."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        super().__init__(path)
        self.names = list(names)

    def __iter__(self) -> Iterator[tuple[int, str, Cells]]:
        for place, name in enumerate(self.names):
            yield place, name, {FILE_NAME: name}

    def cells(self, place: int) -> Cells:
        return {FILE_NAME: self.names[place]}


def open_metadata(path: Path) -> Metadata:
    return JsonLines(path) if path.suffix == ".jsonl" else Columns(path)


# Columns that name pictures


def picture_column(name: str) -> str | None:
    """`file_name` -> `image`, `x_file_name` -> `x`, others None."""
    if name == FILE_NAME:
        return "image"
    return name.removesuffix(f"_{FILE_NAME}") if name.endswith(f"_{FILE_NAME}") else None


def picture_names(cells: Cells) -> dict[str, str]:
    """Column -> file name, the source picture's first; empty where a row names none."""
    found = {column: v for name, v in cells.items() if (column := picture_column(name)) and isinstance(v, str)}
    return dict(sorted(found.items(), key=lambda item: item[0] not in ROLES["image"]))
