"""A data set as a table: rows by split and number, texts as they stand, pictures as the bytes of their files.

Folders, hub repositories and shards are tables; `tables.TableSource` makes records from them.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mtdiff.errors import RunError
from mtdiff.pictures import Unreadable, open_picture, upright_size
from mtdiff.types import SPLITS, Split

ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image": ("image", "original_image", "input_image"),
        "caption": ("caption", "captions", "text", "original_prompt", "original_caption"),
        "edited_image": ("edited_image", "edited", "target_image"),
        "instruction": ("instruction", "edit_prompt"),
        "edited_caption": ("edited_caption", "edited_prompt", "target_caption"),
    }
)
"""What a row is read for, and the columns that are tried where none is named. A caption may be a list: one is drawn."""
SPLIT_NAMES: Mapping[Split, tuple[str, ...]] = MappingProxyType(
    {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}
)


@dataclass(frozen=True)
class Row:
    """key: names the row. columns: texts (or lists of them) and pictures, these as bytes."""

    key: str
    columns: Mapping[str, Any]


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
    def row(self, split: Split, index: int) -> Row:
        """Unreadable where this row cannot be used; Unavailable where no row can."""

    def picture_size(self, split: Split, index: int, column: str) -> tuple[int, int]:
        """Width and height of a row's upright picture, from its header; Unreadable where there is none."""
        cell = self.row(split, index).columns.get(column)
        if not isinstance(cell, bytes):
            raise Unreadable(f"no picture in {column}")
        return upright_size(open_picture(cell, max_pixels=2**62))

    def runs(self, split: Split) -> Sequence[int]:
        """Sizes of the parts that lie together, in order; an epoch keeps near to them. One part unless it matters."""
        return [self.size(split)]

    def roles(self, split: Split, needed: Sequence[str]) -> dict[str, str]:
        """Role -> column, or a ValueError that names what is missing and what there is."""
        names, found = self.names(split), {}
        for role, tried in ROLES.items():
            candidates = (self.chosen[role],) if role in self.chosen else tried
            column = next((c for c in candidates if c in names), None)
            if column is not None:
                found[role] = column
            elif role in needed or role in self.chosen:
                raise ValueError(
                    f"{self.name}: no column {' or '.join(candidates)} for the {role} in {split!r}; "
                    f"there are {', '.join(names)} (choose with columns: {{{role}: ...}})"
                )
        return found


def text_of(value: Any) -> list[str]:
    """The texts of a cell: none, one, or several to choose from; blank ones do not count."""
    cells = value if isinstance(value, list | tuple) else [value]
    if any(not isinstance(c, str | None) for c in cells):
        raise Unreadable(f"{str(value)[:60]!r} is no text")
    return [c.strip() for c in cells if c is not None and c.strip()]


def held_out(groups: Sequence[str], share: float, wanted: Sequence[Split]) -> list[Split]:
    """The split of each row where a data set has none of its own: `share` of the groups for each wanted split.

    Rows of one group (the same source picture) stay together. Which groups is decided by a hash of their names, so it
    does not depend on the order of rows. At least one group each where there are three or more.
    """
    if not 0 <= share < 0.5:
        raise ValueError(f"held_out={share}: expected a share from 0 to below 0.5")
    unique = sorted(set(groups), key=lambda g: hashlib.sha256(g.encode()).digest())
    count = 0 if share == 0 or len(unique) < 3 else max(1, round(share * len(unique)))
    taken: dict[str, Split] = {}
    for k, split in enumerate(wanted):
        taken |= dict.fromkeys(unique[k * count : (k + 1) * count], split)
    return [taken.get(g, "train") for g in groups]


def split_named(name: str) -> Split | None:
    """The split that a folder or a file prefix is named after."""
    return next((s for s in SPLITS if name in SPLIT_NAMES[s]), None)


def missing_extra(package: str) -> ValueError:
    return ValueError(f"{package}: not installed; this kind of data set needs it: pip install -e '.[data]'")
