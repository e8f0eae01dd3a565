"""WebDataset shards with random access: tar files, and one index that says where each sample starts.

The samples of a tar are read one by one in a single range request each, from a local disk or anything fsspec reaches
(`s3://`, `gs://`, `https://`, ...). So a shard is addressed by number like everything else: an epoch goes through the
shards in a shuffled order, every worker and rank takes its share, and a run goes on exactly where it was.

    key.image.png key.edited_image.png key.json      -> columns image, edited_image, and those of the JSON
    key.jpg key.txt                                  -> columns image, caption
"""

import os
import tarfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import fsspec
import numpy as np
from numpy.typing import NDArray

from mtdiff.data.tables.shard_index import INDEX, MAKE, check_sizes, read_index
from mtdiff.data.tables.shard_samples import read_columns, read_members
from mtdiff.data.tables.table import Row, Table, Unavailable
from mtdiff.files.pictures import Unreadable
from mtdiff.types import SPLITS, Split

GLANCE = 16
"""So many rows tell the columns of a shard whose index does not."""
ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt at a range; twice as long before the third."""


class Shards(Table):
    """url: a folder or URL with the tar files that `index.json` names.

    index: the folder or URL with `index.json`; null: it lies with the shards.
    copy_to: a local folder that takes a copy of every shard when it is first read; null: range requests (streaming).
    held_out: share of samples taken from training for validation and for test, where these are missing.
    """

    def __init__(
        self,
        url: str,
        copy_to: str | None = None,
        columns: Mapping[str, str] | None = None,
        held_out: float = 0.05,
        index: str | None = None,
    ) -> None:
        super().__init__(url, columns)
        self.url, self.copy_to = url.rstrip("/"), None if copy_to is None else Path(copy_to)
        content = read_index((index or url).rstrip("/"))
        shards = [(split, shard) for split in SPLITS for shard in content.get(split, [])]
        self.files = [shard["file"] for _, shard in shards]
        self.bytes = [shard["bytes"] for _, shard in shards]
        self.starts = [np.array(shard["starts"], np.int64) for _, shard in shards]
        self.sizes = [shard.get("sizes") for _, shard in shards]
        check_sizes(self.url, dict(zip(self.files, self.bytes, strict=True)))
        self.columns = [shard.get("columns") for _, shard in shards]
        self._rows = self._divide([split for split, _ in shards], held_out)
        self._names = {s: self._collect_columns(s) for s in SPLITS if self.size(s)}

    def size(self, split: Split) -> int:
        return len(self._rows[split])

    def names(self, split: Split) -> Sequence[str]:
        return self._names[split]

    def _collect_columns(self, split: Split) -> list[str]:
        """Columns of any row of a split, as the index has them; older ones do not, and some rows are read."""
        listed = [self.columns[shard] for shard in np.unique(self._rows[split][:, 0])]
        if None not in listed:
            return list(dict.fromkeys(name for names in listed for name in names or ()))
        found: dict[str, None] = {}
        for index in range(min(GLANCE, self.size(split))):
            try:
                found.update(dict.fromkeys(self.row(split, index).columns))
            except Unreadable:  # found again, and counted, when its turn comes
                continue
            except Unavailable as error:
                raise ValueError(str(error)) from None
        return list(found)

    def runs(self, split: Split) -> Sequence[int]:
        shards = self._rows[split][:, 0]
        return [int(n) for n in np.unique(shards, return_counts=True)[1]]

    def read_row(self, split: Split, index: int) -> Row:
        shard, number = (int(v) for v in self._rows[split][index])
        starts = self.starts[shard]
        data = self._read_range(shard, int(starts[number]), int(starts[number + 1]))
        try:
            members = list(read_members(data))
        except (tarfile.TarError, EOFError) as error:
            raise Unavailable(f"{self.url}/{self.files[shard]}: broken shard at sample {number} ({error})") from None
        keys = {key for key, _, _ in members}
        if len(keys) != 1:
            raise Unavailable(f"{self.url}/{self.files[shard]}: not the shard of its index at sample {number}")
        return Row(f"{self.files[shard]}/{keys.pop()}", read_columns(members))

    def picture_size(self, split: Split, index: int, column: str) -> tuple[int, int]:
        """From the index: the samples are not read. Of their first picture; those of a pair are equal."""
        shard, number = (int(v) for v in self._rows[split][index])
        sizes = self.sizes[shard]
        if sizes is None:
            raise ValueError(f"{self.url}: its {INDEX} has no sizes of pictures; {MAKE}{self.url}")
        if sizes[number] is None:
            raise Unreadable("no picture")
        width, height = sizes[number]
        return width, height

    def _read_range(self, shard: int, start: int, end: int) -> bytes:
        """Bytes of a shard; a connection that fails is tried again."""
        url = f"{self.url}/{self.files[shard]}" if self.copy_to is None else self._copy_shard(shard)
        for attempt in range(ATTEMPTS):
            try:
                fs, path = fsspec.url_to_fs(url)  # cached by fsspec, one a process
                data = fs.cat_file(path, start=start, end=end)
                if len(data) == end - start:
                    return data
                reason = f"ends at byte {start + len(data)}"
            except OSError as error:
                reason = " ".join(str(error).split())[:120]
            if attempt + 1 < ATTEMPTS:
                time.sleep(PAUSE * 2**attempt)
        raise Unavailable(f"{url}: bytes {start} to {end} cannot be read ({reason})")

    def _copy_shard(self, shard: int) -> str:
        """Path of the local copy, made where it is missing; several processes may do so at once."""
        assert self.copy_to is not None
        path = self.copy_to / self.files[shard]
        if not path.is_file() or path.stat().st_size != self.bytes[shard]:
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".{os.getpid()}.part")
            try:
                fs, remote = fsspec.url_to_fs(f"{self.url}/{self.files[shard]}")
                fs.get_file(remote, str(part))
                part.replace(path)
            except OSError as error:
                part.unlink(missing_ok=True)
                raise Unavailable(f"{path}: cannot be copied from {self.url} ({error.strerror or error})") from None
        return str(path)

    def _divide(self, own: Sequence[Split], share: float) -> dict[Split, NDArray[np.int64]]:
        """Split -> (n, 2): shard and number of the sample in it."""
        wanted: list[Split] = [s for s in ("validation", "test") if s not in own]
        rows: dict[Split, list[tuple[int, int]]] = {s: [] for s in SPLITS}
        numbered = [(s, k, n) for k, s in enumerate(own) for n in range(len(self.starts[k]) - 1)]
        train = [f"{self.files[k]}/{n}" for s, k, n in numbered if s == "train"]
        division = iter(self.hold_out(train, share, wanted))
        for split, k, n in numbered:
            rows[next(division) if split == "train" else split].append((k, n))
        return {s: np.array(r, np.int64).reshape(-1, 2) for s, r in rows.items()}
