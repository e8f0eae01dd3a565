"""A user's own data sets, or published ones, as records for any task.

    data=folder data.edit=/pictures/edits tasks=[edit]

Every kind of record (`mtdiff.types.Need`) has a table of its own: `caption` feeds text_to_image, `edit` edit, `picture`
super_resolution, inpaint's holes and other restorations, `removal` inpaint's removals, `labels` segment, `order` order,
`label` joint_label.
"""

import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mtdiff.data.buckets import Shape, nearest, select_filled, shapes
from mtdiff.data.source import Source
from mtdiff.data.tables.cells import crop_to, draw_text, read_label
from mtdiff.data.tables.opening import MAPS, NEEDED, TRIES, check_roles, narrow, open_table
from mtdiff.data.tables.table import REFERENCE, WORDS, Row, Table, Unavailable
from mtdiff.files.pictures import MAX_PIXELS, Unreadable, open_picture, to_rgb
from mtdiff.types import SPLITS, Need, Record, Reference, Split

log = logging.getLogger(__name__)
SKIPPED, MENDED = 1, 2
WINDOW = 8
"""So many shards are mixed at a time."""


class TableSource(Source):
    """caption, edit, picture, removal, labels, order, label: a path, a URL of shards, or a table; null where there is
    none.

    A path is a folder with metadata.jsonl, one written by `datasets`' save_to_disk, or shards with an index.
    size: side of the pictures in pixels: the largest centred square, resized (bicubic, antialiased).
    buckets: ratios of width to height; training pictures are cut to the nearest of them instead, at about the same area
    with sides that are multiples of bucket_step (`mtdiff.data.buckets`). Validation and test keep squares.
    max_pixels: larger files are not decoded. counts: published sizes {need: {split: n}}, which the checker compares.

    A row that cannot be read is replaced by the next that can: logged once with its key, counted in `skipped`.
    """

    def __init__(
        self,
        caption: str | Table | None = None,
        edit: str | Table | None = None,
        picture: str | Table | None = None,
        removal: str | Table | None = None,
        size: int = 512,
        max_pixels: int = MAX_PIXELS,
        counts: Mapping[str, Mapping[str, int]] | None = None,
        buckets: list[float] | None = None,
        bucket_step: int = 64,
        labels: str | Table | None = None,
        order: str | Table | None = None,
        label: str | Table | None = None,
    ) -> None:
        if not isinstance(size, int) or size < 16:
            raise ValueError(f"data.size={size!r}: expected a whole number of at least 16")
        if max_pixels < size * size:
            raise ValueError(f"data.max_pixels={max_pixels}: expected at least size x size, {size * size}")
        self.shape, self.shapes = Shape(size, size), [] if buckets is None else shapes(size, buckets, bucket_step)
        given: dict[Need, str | Table | None] = {
            "caption": caption,
            "edit": edit,
            "picture": picture,
            "removal": removal,
            "labels": labels,
            "order": order,
            "label": label,
        }
        self.side, self.max_pixels, self.counts = size, max_pixels, dict(counts or {})
        self.tables: dict[Need, Table] = {n: narrow(n, open_table(n, t)) for n, t in given.items() if t is not None}
        self.roles = {(n, s): check_roles(n, t, s) for n, t in self.tables.items() for s in SPLITS if t.size(s)}
        # Shared with loader processes, so that what they skip or mend is counted here.
        self._notes = {k: torch.zeros(self.size(*k), dtype=torch.uint8).share_memory_() for k in self.roles}

    def size(self, need: Need, split: Split) -> int:
        if need not in get_args(Need):
            raise ValueError(f"need={need!r}: expected one of {', '.join(get_args(Need))}")
        return self.tables[need].size(split) if need in self.tables else 0

    def order(self, need: Need, split: Split, rng: np.random.Generator) -> NDArray[np.int64]:
        """Shards in a shuffled order, the rows of WINDOW shards mixed; all rows mixed where nothing lies together."""
        runs = self.tables[need].runs(split)
        ends = np.cumsum(runs)
        rows = [np.arange(end - run, end) for end, run in zip(ends, runs, strict=True)]
        parts = rng.permutation(len(rows))
        windows = (parts[k : k + WINDOW] for k in range(0, len(parts), WINDOW))
        return np.concatenate([rng.permutation(np.concatenate([rows[p] for p in window])) for window in windows])

    def record(self, need: Need, split: Split, index: int, rng: np.random.Generator) -> Record:
        count = self.size(need, split)
        if not 0 <= index < count:
            raise IndexError(f"index={index}: `{need}` of `{split}` has {count} records")
        for k in range(min(TRIES, count)):
            place = (index + k) % count
            try:
                row = self.tables[need].row(split, place)
                record = self.make_record(need, split, row, rng)
            except Unreadable as error:
                self._note(need, split, place, SKIPPED, f"skipped ({{}} so far): {error}")
                continue
            if row.mended:
                self._note(need, split, place, MENDED, "mended ({} so far): half a character is now U+FFFD")
            return record
        name, tried = self.tables[need].name, min(TRIES, count)
        raise Unavailable(f"data.{need}={name}: no readable row among {tried} in {split!r}")

    def count_skipped(self) -> dict[str, int]:
        """Distinct rows that were unreadable so far, in this process and its loaders: `need/split` -> count."""
        found = {f"{need}/{split}": int((notes == SKIPPED).sum()) for (need, split), notes in self._notes.items()}
        return {name: count for name, count in found.items() if count > 0}

    def make_record(self, need: Need, split: Split, row: Row, rng: np.random.Generator) -> Record:
        """A record from a row of the table; Unreadable where it lacks something."""
        cells = {role: row.columns.get(column) for role, column in self.roles[need, split].items()}
        texts = {role: draw_text(cells.get(role), rng) for role in ("caption", "instruction", "edited_caption")}
        if need in MAPS:
            image, shown_map = self._pictures(cells, ("image", need))
            return Record(image, texts["caption"], row.key, map=shown_map)
        if "instruction" not in NEEDED[need]:
            label = read_label(cells.get("label")) if need == "label" else ""
            (image,) = self._pictures(cells, ("image",))
            return Record(image, texts["caption"], row.key, label=label, reference=self._references(row))
        if not texts["instruction"]:
            raise Unreadable("no instruction")
        image, edited = self._pictures(cells, ("image", "edited_image"))
        kind = "remove" if need == "removal" else "edit"
        return Record(image, texts["caption"], row.key, kind, edited, texts["instruction"], texts["edited_caption"])

    def list_classes(self) -> list[str]:
        if ("label", "train") not in self.roles:
            return []
        table, column = self.tables["label"], self.roles["label", "train"]["label"]
        found: set[str] = set()
        for index in range(table.size("train")):
            try:
                found.add(read_label(table.read_cell("train", index, column)))
            except Unreadable:  # found again, and counted, when its turn comes
                continue
            except Unavailable as error:
                raise ValueError(str(error)) from None
        return sorted(found)

    def reference_names(self, need: Need, split: Split) -> Sequence[str]:
        """Names of the columns `reference_<name>`, of records that are drawn from a picture alone."""
        if need not in self.tables or not self.tables[need].size(split) or NEEDED[need][1:] not in ((), ("caption",)):
            return ()
        columns = self.tables[need].names(split)
        return [column.removeprefix(REFERENCE) for column in columns if column.startswith(REFERENCE)]

    def _references(self, row: Row) -> dict[str, Reference]:
        """The references that a row has, squares of `side`; Unreadable where one is no picture."""
        found = {}
        for column, cell in row.columns.items():
            if column.startswith(REFERENCE) and cell is not None:
                if not isinstance(cell, bytes):
                    raise Unreadable(f"no picture in {column}")
                image, name = to_rgb(open_picture(cell, self.max_pixels)), column.removeprefix(REFERENCE)
                words = row.columns.get(WORDS + name)
                shown = words if isinstance(words, str) else ""
                found[name] = Reference(crop_to(image, self.side, self.side), shown)
        return found

    def _pictures(self, cells: Mapping[str, Any], roles: Sequence[str]) -> list[Tensor]:
        """(3, H, W) uint8 each, of `shape`; pictures of one row have the same size, so that what is cut off matches."""
        images = []
        for role in roles:
            if not isinstance(cells.get(role), bytes):
                raise Unreadable(f"no picture for the {role}")
            images.append(to_rgb(open_picture(cells[role], self.max_pixels)))
        if len({image.size for image in images}) > 1:
            raise Unreadable(f"pictures of different sizes, {' and '.join(f'{i.width}x{i.height}' for i in images)}")
        return [crop_to(image, *self.shape, exact=role in MAPS) for image, role in zip(images, roles, strict=True)]

    def buckets(self) -> Sequence[Source]:
        """One source for each of `shapes` that holds records; only headers are read."""
        if not self.shapes:
            return [self]
        sizes = {need: self.picture_sizes(need) for need, split in self.roles if split == "train"}
        ratios = {need: np.log(size[:, 0] / size[:, 1]) for need, size in sizes.items()}
        kept = select_filled(self.shapes, np.concatenate(list(ratios.values())))
        places = {need: nearest(kept, r) for need, r in ratios.items()}
        for k, shape in enumerate(kept):
            log.info("data.buckets: %s holds %d", shape, sum(int((p == k).sum()) for p in places.values()))
        rows = [{need: np.flatnonzero(p == k) for need, p in places.items()} for k in range(len(kept))]
        return [InBucket(self, shape, held) for shape, held in zip(kept, rows, strict=True)]

    def picture_sizes(self, need: Need) -> NDArray[np.int64]:
        """(n, 2) width and height of the training rows' pictures; 1 and 1 where one cannot be read."""
        table, column = self.tables[need], self.roles[need, "train"]["image"]

        def of(index: int) -> tuple[int, int]:
            try:
                return table.picture_size("train", index, column)
            except Unreadable:  # found again, and counted, when its turn comes
                return 1, 1

        with ThreadPoolExecutor(8) as pool:
            return np.array(list(pool.map(of, range(table.size("train")))), np.int64)

    def _note(self, need: Need, split: Split, place: int, what: int, said: str) -> None:
        """Count a row that was skipped or mended, and say so once."""
        notes = self._notes[need, split]
        if not notes[place]:
            notes[place] = what
            total = int((notes == what).sum())
            log.warning("data.%s=%s: row %d of %s %s", need, self.tables[need].name, place, split, said.format(total))


class InBucket(Source):
    """The training records of a TableSource at the places `rows`, cut to one shape."""

    def __init__(self, source: TableSource, shape: Shape, rows: Mapping[Need, NDArray[np.int64]]) -> None:
        self.rows, self.source = rows, copy(source)
        self.source.shape = shape

    def size(self, need: Need, split: Split) -> int:
        return len(self.rows[need]) if split == "train" and need in self.rows else 0

    def record(self, need: Need, split: Split, index: int, rng: np.random.Generator) -> Record:
        return self.source.record(need, split, int(self.rows[need][index]), rng)

    def reference_names(self, need: Need, split: Split) -> Sequence[str]:
        return self.source.reference_names(need, split)

    def order(self, need: Need, split: Split, rng: np.random.Generator) -> NDArray[np.int64]:
        place = np.full(self.source.size(need, split), -1)
        place[self.rows[need]] = np.arange(len(self.rows[need]))
        order = place[self.source.order(need, split, rng)]
        return order[order >= 0]
