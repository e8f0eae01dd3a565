"""A data set as a table: rows by split and number, texts as they stand, pictures as the bytes of their files.

Folders, hub repositories and shards are tables; `tables.TableSource` makes records from them.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mtdiff.errors import RunError
from mtdiff.files.pictures import Unreadable, open_picture, upright_size
from mtdiff.types import Split

ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image": ("image", "original_image", "input_image"),
        "caption": ("caption", "captions", "text", "original_prompt", "original_caption"),
        "edited_image": ("edited_image", "edited", "target_image"),
        "instruction": ("instruction", "edit_prompt"),
        "edited_caption": ("edited_caption", "edited_prompt", "target_caption"),
        "labels": ("labels", "label_map", "segmentation"),
        "order": ("order", "order_map"),
        "label": ("label", "class", "category"),
    }
)
"""What a row is read for, and the columns that are tried where none is named. A caption may be a list: one is drawn."""
REFERENCE = "reference_"
"""Before the name of a reference picture: the column `reference_style` holds the reference `style`."""
WORDS = "words_"
"""Before its name too: `words_style` holds the words of the caption that say what the reference `style` shows."""
SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("train", "training"),
        "validation": ("validation", "valid", "val", "dev"),
        "test": ("test", "testing", "eval", "evaluation"),
    }
)
"""What `datasets` calls the splits, in folders, files and repositories."""
HELD_OUT_FIRST: tuple[Split, ...] = ("test", "validation", "train")
_BEFORE, _AFTER = r"(?:(?<![^-._ 0-9])|(?<=[a-z])(?=[A-Z]))", r"(?:(?![^-._ 0-9])|(?<=[a-z])(?=[A-Z]))"
SPLIT_WORDS: Mapping[Split, re.Pattern[str]] = MappingProxyType(
    {split: re.compile(f"{_BEFORE}(?i:{'|'.join(words)})(?i:set)?{_AFTER}") for split, words in SPLIT_NAMES.items()}
)
"""A split's word at the borders of `datasets` (-._ 0-9), in any case; beyond its rule `testA` and `trainset`."""


SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Row:
    """key: names the row. columns: texts (or lists of them) and pictures, these as bytes. mended: a text was broken."""

    key: str
    columns: Mapping[str, Any]
    mended: bool = False


class Unavailable(RunError):
    """The data cannot be read on: a connection, a disk or a shard has broken in the middle of a run.

    From a loader process it comes with that process's traceback before it; its last line says it all.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message.strip().splitlines()[-1].removeprefix(f"{__name__}.Unavailable: "))


class Table(ABC):
    """name: where it lies, for messages. roles: columns chosen for some of ROLES, over the ones that are tried."""

    def __init__(self, name: str, columns: Mapping[str, str] | None = None) -> None:
        for role in columns or {}:
            if role not in ROLES:
                raise ValueError(f"{name}: columns.{role}: expected one of {', '.join(ROLES)}")
        self.name, self.chosen = name, dict(columns or {})

    @abstractmethod
    def size(self, split: Split) -> int:
        """Rows of a split."""

    @abstractmethod
    def names(self, split: Split) -> Sequence[str]:
        """Columns of a split that has rows."""

    @abstractmethod
    def read_row(self, split: Split, index: int) -> Row:
        """A row as it stands. Unreadable where it cannot be used; Unavailable where no row can."""

    def row(self, split: Split, index: int) -> Row:
        """A row whose texts can be encoded; raises as `read_row` does."""
        row = self.read_row(split, index)
        columns = {mend_text(name): mend_text(value) for name, value in row.columns.items()}
        return Row(mend_text(row.key), columns, mended=columns != row.columns)

    def read_cell(self, split: Split, index: int, column: str) -> Any:
        """One cell that is no picture, or None; raises as `read_row` does."""
        return mend_text(self.row(split, index).columns.get(column))

    def picture_size(self, split: Split, index: int, column: str) -> tuple[int, int]:
        """Width and height of a row's upright picture, from its header; Unreadable where there is none."""
        cell = self.row(split, index).columns.get(column)
        if not isinstance(cell, bytes):
            raise Unreadable(f"no picture in {column}")
        return upright_size(open_picture(cell, max_pixels=2**62))

    def runs(self, split: Split) -> Sequence[int]:
        """Sizes of the parts that lie together, in order; an epoch keeps near to them. One part unless it matters."""
        return [self.size(split)]

    def serving(self, split: Split, columns: Sequence[str]) -> NDArray[np.int64] | None:
        """The rows that have something in any of these columns; None where all may have, or it is not known cheaply."""
        return None

    def candidates(self, role: str) -> Sequence[str]:
        """Columns that may have a role: the chosen one, or all that are tried."""
        return (self.chosen[role],) if role in self.chosen else ROLES[role]

    def roles(self, split: Split, needed: Sequence[str]) -> dict[str, str]:
        """Role -> column, or a ValueError that names what is missing and what there is."""
        names, found = self.names(split), {}
        for role in ROLES:
            candidates = self.candidates(role)
            column = next((c for c in candidates if c in names), None)
            if column is not None:
                found[role] = column
            elif role in needed or role in self.chosen:
                raise ValueError(
                    f"{self.name}: no column {' or '.join(candidates)} for the {role} in {split!r}; "
                    f"there are {', '.join(names)} (choose with columns: {{{role}: ...}})"
                )
        return found

    def hold_out(self, groups: Sequence[str], share: float, wanted: Sequence[Split]) -> list[Split]:
        """`held_out`, whose errors name the table."""
        try:
            return held_out(groups, share, wanted)
        except ValueError as error:
            raise ValueError(f"{self.name}: {error}") from None


class Subset(Table):
    """Some rows of a table: those that serve one kind of record. rows: their numbers in the table, by split."""

    def __init__(self, table: Table, rows: Mapping[Split, NDArray[np.int64]]) -> None:
        super().__init__(table.name, table.chosen)
        self.table, self.rows = table, dict(rows)

    def size(self, split: Split) -> int:
        return len(self.rows[split]) if split in self.rows else self.table.size(split)

    def names(self, split: Split) -> Sequence[str]:
        return self.table.names(split)

    def place(self, split: Split, index: int) -> int:
        return int(self.rows[split][index]) if split in self.rows else index

    def read_row(self, split: Split, index: int) -> Row:
        return self.table.read_row(split, self.place(split, index))

    def read_cell(self, split: Split, index: int, column: str) -> Any:
        return self.table.read_cell(split, self.place(split, index), column)

    def picture_size(self, split: Split, index: int, column: str) -> tuple[int, int]:
        return self.table.picture_size(split, self.place(split, index), column)

    def runs(self, split: Split) -> Sequence[int]:
        if split not in self.rows:
            return self.table.runs(split)
        ends = np.searchsorted(self.rows[split], np.cumsum([0, *self.table.runs(split)]))
        return [int(n) for n in np.diff(ends) if n > 0]


def text_of(value: Any) -> list[str]:
    """The texts of a cell: none, one, or several to choose from; blank ones do not count."""
    cells = value if isinstance(value, list | tuple) else [value]
    if any(not isinstance(c, str | None) for c in cells):
        raise Unreadable(f"{str(value)[:60]!r} is no text")
    return [c.strip() for c in cells if c is not None and c.strip()]


def held_out(groups: Sequence[str], share: float, wanted: Sequence[Split]) -> list[Split]:
    """The split of each row where a data set has none of its own: `share` of the groups for each wanted split.

    Rows of one group (the same source picture) stay together. Which groups is decided by a hash of their names, so it
    does not depend on the order of rows. At least one group each; ValueError where there are too few.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"held_out={share}: expected a share from 0 to below 0.5")
    if share > 0 and 0 < len(set(groups)) <= len(wanted):
        least = f"{len(wanted) + 1}: for training, {', '.join(wanted)}"
        raise ValueError(f"pictures: {len(set(groups))}, expected at least {least}")
    unique = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode("utf-8", "surrogatepass")).digest())
    count = 0 if share == 0 else max(1, round(share * len(unique)))
    taken: dict[str, Split] = {}
    for k, split in enumerate(wanted):
        taken |= dict.fromkeys(unique[k * count : (k + 1) * count], split)
    return [taken.get(g, "train") for g in groups]


def find_split(names: Iterable[str]) -> Split | None:
    """The split that names of folders or files say; test before validation before training where they say several."""
    said = list(names)
    return next((s for s in HELD_OUT_FIRST if any(SPLIT_WORDS[s].search(name) for name in said)), None)


def mend_text(value: Any) -> Any:
    """Texts, also in lists and mappings, with halves of characters (lone surrogates) replaced by U+FFFD."""
    if isinstance(value, str):
        if value.isascii() or not SURROGATE.search(value):
            return value
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list | tuple):
        return [mend_text(v) for v in value]
    if isinstance(value, dict):
        return {mend_text(k): mend_text(v) for k, v in value.items()}
    return value


def missing_extra(package: str) -> ValueError:
    return ValueError(f"{package}: not installed; this kind of data set needs it: pip install -e '.[data]'")
