"""The table of a kind of record, from a path or URL: what lies there, which rows serve, and which columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mtdiff.data.tables.contents import list_contents
from mtdiff.data.tables.folder import Folder
from mtdiff.data.tables.hub import Hub, is_saved
from mtdiff.data.tables.shard_index import INDEX
from mtdiff.data.tables.shards import Shards
from mtdiff.data.tables.table import Subset, Table, Unavailable
from mtdiff.errors import shown
from mtdiff.files.pictures import Unreadable
from mtdiff.types import SPLITS, Need, Split

PAIR = ("image", "edited_image", "instruction")
NEEDED: Mapping[Need, tuple[str, ...]] = {
    "picture": ("image",),
    "caption": ("image", "caption"),
    "edit": PAIR,
    "removal": PAIR,
    "labels": ("image", "labels"),
    "order": ("image", "order"),
    "label": ("image", "label"),
}
MAPS = ("labels", "order")
"""Roles of pictures whose colours mean something, so that none may be mixed."""
TRIES = 100
"""So many unreadable rows in succession end a run."""


def open_table(need: Need, given: str | Table) -> Table:
    """A table from a path or URL, its kind told by what lies there."""
    if isinstance(given, Table):
        return given
    try:
        if "://" in given:
            return Shards(given)
        path = Path(given).expanduser()
        if (path / INDEX).is_file():
            return Shards(str(path))
        if is_saved(path):
            return Hub(str(path))
        return Shards(str(path)) if holds_shards(path) else Folder(str(path))  # Shards say how to make the index
    except ValueError as error:
        raise ValueError(f"data.{need}: {error}") from None


def narrow(need: Need, table: Table) -> Table:
    """The rows of a table that serve a kind of record: one folder may hold rows for several tasks.

    A row that has nothing of what the kind needs beside the picture is meant for others; one that has a part of it is
    broken. Any picture may be drawn without a caption.
    """
    rows: dict[Split, NDArray[np.int64]] = {}
    roles = [role for role in NEEDED[need] if role not in ("image", "caption")]
    for split in (s for s in SPLITS if roles and table.size(s)):
        names = table.names(split)
        columns = [column for role in roles for column in table.candidates(role) if column in names]
        if columns and (found := table.serving(split, columns)) is not None:
            rows[split] = found
    return Subset(table, rows) if rows else table


def holds_shards(folder: Path) -> bool:
    """Whether a folder without an index is made of tars; beside metadata or more pictures, they are left over."""
    contents = list_contents(folder)
    tars = sum(name.endswith(".tar") for name in contents.archives)
    return tars > 0 and not contents.metadata and tars >= len(contents.pictures)


def check_roles(need: Need, table: Table, split: Split) -> dict[str, str]:
    """Role -> column, or a ValueError where one is missing or holds texts in place of pictures."""
    try:
        roles = table.roles(split, NEEDED[need])
        check_pictures(table, split, [roles[role] for role in NEEDED[need] if role in ("image", "edited_image", *MAPS)])
        return roles
    except ValueError as error:
        raise ValueError(f"data.{need}: {error}") from None


def check_pictures(table: Table, split: Split, columns: Sequence[str]) -> None:
    """Refuse texts where pictures belong, and damage, by the first row that can be read."""
    for index in range(min(TRIES, table.size(split))):
        try:
            cells = table.row(split, index).columns
        except Unreadable:  # found again, and counted, when its turn comes
            continue
        except Unavailable as error:
            raise ValueError(str(error)) from None
        for column in columns:
            if isinstance(cells.get(column), str):
                raise ValueError(
                    f"{table.name}: the column {column} holds texts ({shown(cells[column], 40)!r}), expected pictures; "
                    f"metadata names their files in {column}_file_name (or file_name)"
                )
        return
