"""WebDataset shards with random access: tar files, and one index that says where each sample starts.

The samples of a tar are read one by one in a single range request each, from a local disk or anything fsspec reaches
(`s3://`, `gs://`, `https://`, ...). So a shard is addressed by number like everything else: an epoch goes through the
shards in a shuffled order, every worker and rank takes its share, and a run goes on exactly where it was.

    key.image.png key.edited_image.png key.json      -> columns image, edited_image, and those of the JSON
    key.jpg key.txt                                  -> columns image, caption
"""

import codecs
import json
import os
import re
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from mtdiff.data.tables.table import Row, Table, Unavailable, find_split
from mtdiff.pictures import ENDINGS, Unreadable, open_picture, upright_size
from mtdiff.types import SPLITS, Split

INDEX = "index.json"
FORMAT = "mtdiff shards 1"
SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""Key and extension of a file, by WebDataset's rule; what has none, such as README and ._0.jpg, is in no sample."""
META = re.compile(r"__[^/]*__($|/)")
GLANCE = 16
"""So many rows tell the columns of a shard whose index does not."""
LARGEST_JSON = 2**20
ATTEMPTS = 3
PAUSE = 1.0
"""Seconds before the second attempt at a range; twice as long before the third."""
MAKE = "make it with: python experiments/convert_data.py index="


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
        data = self._range(shard, int(starts[number]), int(starts[number + 1]))
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

    def _range(self, shard: int, start: int, end: int) -> bytes:
        """Bytes of a shard; a connection that fails is tried again."""
        url = f"{self.url}/{self.files[shard]}" if self.copy_to is None else self._copied(shard)
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

    def _copied(self, shard: int) -> str:
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


# Samples


def read_columns(members: Sequence[tuple[str, str, bytes]]) -> dict[str, Any]:
    """Columns of a sample from its files (key, extension, content): pictures by the part before their suffix, texts,
    and JSON objects."""
    found: dict[str, Any] = {}
    for key, extension, data in members:
        column, _, suffix = extension.rpartition(".")
        try:
            if f".{suffix}" in ENDINGS:
                found[column or "image"] = data
            elif suffix == "txt":
                found[column or "caption"] = decode_text(data)
            elif suffix == "json":
                found |= {k: v for k, v in read_object(data).items() if k not in found}
        except ValueError as error:
            raise Unreadable(f"{key}.{extension}: {error}") from None
    return found


def decode_text(data: bytes) -> str:
    """UTF-8, or what a byte-order mark says."""
    for mark, encoding in ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32")):
        if data.startswith(mark):
            return data.decode(encoding)
    return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def read_object(data: bytes) -> dict[str, Any]:
    content = json.loads(data)
    if not isinstance(content, dict):
        raise ValueError("expected a JSON object")
    return content


def read_members(data: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Keys, extensions and contents of the samples' files in a piece of a tar."""
    with tarfile.open(fileobj=BytesIO(data), mode="r:") as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isfile() else None
            parts = split_key(member.name)
            if file is not None and parts is not None:
                yield *parts, file.read()
        if tar.offset < len(data):  # type: ignore[attr-defined]
            raise tarfile.ReadError("a damaged header")  # at which tarfile stops without a word


def split_key(name: str) -> tuple[str, str] | None:
    """`a/b.image.PNG` -> `a/b`, `image.png`, as WebDataset groups files to samples; None where it skips a file."""
    match = None if META.match(name) else SAMPLE.fullmatch(name)
    return None if match is None else (match[1], match[2].lower())


# The index


def read_index(url: str) -> dict[Split, list[dict[str, Any]]]:
    """{split: [{file, bytes, starts, sizes}]}, checked.

    `starts` has one entry more than the shard has samples; `sizes`, which older ones lack, (W, H) or null for each.
    """
    where = f"{url}/{INDEX}"
    try:
        fs, path = fsspec.url_to_fs(where)
        content = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        raise ValueError(f"{url}: no {INDEX} there; {MAKE}{url}") from None
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{where}: cannot be read ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("splits"), dict):
        raise ValueError(f"{where}: expected the key `format` with {FORMAT!r}, and `splits`; {MAKE}{url}")
    for split, shards in content["splits"].items():
        if split not in SPLITS or not isinstance(shards, list) or not all(_is_shard(s) for s in shards):
            raise ValueError(f"{where}: `splits.{split}`: expected a list of file, bytes, starts below the folder")
    if not any(content["splits"].values()):
        raise ValueError(f"{where}: names no shards")
    return content["splits"]


def _is_shard(shard: Any) -> bool:
    if not isinstance(shard, dict) or not isinstance(shard.get("file"), str) or not isinstance(shard.get("bytes"), int):
        return False
    path, starts = PurePosixPath(shard["file"]), shard.get("starts")
    if path.is_absolute() or ".." in path.parts or "://" in shard["file"]:
        return False
    if not isinstance(starts, list) or len(starts) < 2 or not all(isinstance(n, int) for n in starts):
        return False
    sizes = shard.get("sizes")
    if sizes is not None:
        listed = isinstance(sizes, list) and len(sizes) == len(starts) - 1
        if not listed or not all(map(_is_size, sizes)):
            return False
    names = shard.get("columns", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    return all(a < b for a, b in pairwise([-1, *starts, shard["bytes"] + 1]))


def _is_size(size: Any) -> bool:
    whole = isinstance(size, list) and len(size) == 2 and all(isinstance(n, int) and n > 0 for n in size)
    return size is None or whole


def check_sizes(url: str, expected: Mapping[str, int]) -> None:
    """A shard that is missing or has another size is found before a run starts; one listing tells all sizes."""
    fs, root = fsspec.url_to_fs(url)
    try:
        sizes = {path[len(root) :].lstrip("/"): info["size"] for path, info in fs.find(root, detail=True).items()}
    except (OSError, NotImplementedError) as error:
        raise ValueError(f"{url}: cannot be listed ({error})") from None
    if not sizes and fs.protocol not in ("file", "local"):
        return  # a plain web server lists nothing
    for file, size in expected.items():
        if sizes.get(file) != size:
            found = "missing" if file not in sizes else f"{sizes[file]} bytes, its index says {size}"
            raise ValueError(f"{url}/{file}: broken shard: {found}; index it again, or copy it again")


def indexed(url: str) -> dict[str, Any]:
    """The index of the tars below a folder or URL, by reading all their headers.

    A tar belongs to the split that its folder or the beginning of its name says (`train-000.tar`), else to training.
    """
    fs, root = fsspec.url_to_fs(url.rstrip("/"))
    paths = sorted(p for p in fs.find(root) if p.endswith(".tar"))
    if not paths:
        raise ValueError(f"{url}: no .tar files there")
    splits: dict[str, list[dict[str, Any]]] = {}
    for path in paths:
        file = path[len(root) :].lstrip("/")
        with fs.open(path, "rb") as tar:
            found = {"file": file, "bytes": fs.size(path), **described(path, tar)}
        splits.setdefault(said_split(file), []).append(found)
    return {"format": FORMAT, "splits": splits}


def said_split(file: str) -> Split:
    """The split that the folders and the name of a tar say, in the words of `datasets`; else training."""
    path = PurePosixPath(file)
    return find_split([*path.parts[:-1], path.stem]) or "train"


def described(name: str, file: Any) -> dict[str, list[Any]]:
    """starts: where each sample of an open tar starts, and where the last one ends. sizes: (W, H) of first pictures.

    columns: those of any sample.
    """
    starts: list[int] = []
    sizes: list[list[int] | None] = []
    columns: dict[str, None] = {}
    end, last = 0, None
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                parts = split_key(member.name) if member.isfile() else None
                if parts is not None:
                    key, extension = parts
                    if key != last:
                        starts.append(member.offset)
                        sizes.append(None)
                    if sizes[-1] is None and f".{extension.rpartition('.')[2]}" in ENDINGS:
                        sizes[-1] = _size(tar.extractfile(member))
                    columns.update(dict.fromkeys(name_columns(extension, member, tar)))
                    last = key
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        file.seek(end)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("its end is missing")  # tarfile does not mind a tar cut between two files
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{name}: broken shard ({error})") from None
    if not starts:
        raise ValueError(f"{name}: broken shard (no samples)")
    return {"starts": [*starts, end], "sizes": sizes, "columns": list(columns)}


def name_columns(extension: str, member: tarfile.TarInfo, tar: tarfile.TarFile) -> list[str]:
    """Columns of one file of a sample; of JSON it is read, and none where it is broken."""
    column, _, suffix = extension.rpartition(".")
    if suffix == "json" and member.size <= LARGEST_JSON:
        file = tar.extractfile(member)
        try:
            return list(read_object(b"" if file is None else file.read()))
        except ValueError:
            return []
    if f".{suffix}" in ENDINGS:
        return [column or "image"]
    return [column or "caption"] if suffix == "txt" else []


def _size(file: Any) -> list[int] | None:
    try:
        return list(upright_size(open_picture(file, max_pixels=2**62)))
    except Unreadable:
        return None
