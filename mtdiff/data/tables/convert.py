"""Writes any source of records as WebDataset shards with their index."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from io import BytesIO
from typing import Any

import fsspec
from PIL import Image
from torch import Tensor

from mtdiff.data.source import Source
from mtdiff.data.tables.shard_index import FORMAT, INDEX, describe_shard, index_shards
from mtdiff.data.tables.source import TableSource
from mtdiff.data.tables.table import REFERENCE, WORDS, Table, missing_extra
from mtdiff.files.pictures import Unreadable, picture_ending
from mtdiff.rng import numpy_rng
from mtdiff.types import SPLITS, Need, Record, Split

Sample = Mapping[str, Any]
"""Columns of a row: pictures as bytes, the rest as JSON."""


class Samples:
    """All rows of a kind and split in an order drawn once, so that neighbours in a shard are strangers.

    A table keeps the bytes of its files and all captions; other sources are drawn once, at their size, as PNG.
    Rows that cannot be read are None.
    """

    def __init__(self, source: Source, need: Need, split: Split, seed: int = 0) -> None:
        self.source, self.need, self.split, self.key = source, need, split, (seed, "convert", need, split)

    def __len__(self) -> int:
        return self.source.size(self.need, self.split)

    def __iter__(self) -> Iterator[Sample | None]:
        for index in map(int, numpy_rng(*self.key).permutation(len(self))):
            if isinstance(self.source, TableSource):
                yield row_sample(self.source.tables[self.need], self.split, index)
            else:
                record = self.source.record(self.need, self.split, index, numpy_rng(*self.key, index))
                yield record_sample(record, self.need)


def row_sample(table: Table, split: Split, index: int) -> Sample | None:
    """A row as it stands, its columns renamed to the roles; None where it is unreadable."""
    try:
        row = table.row(split, index)
    except Unreadable:
        return None
    named = {column: role for role, column in table.roles(split, ()).items()}
    return {"key": row.key, **{named.get(name, name): value for name, value in row.columns.items()}}


def record_sample(record: Record, need: Need) -> Sample:
    """A record as a row; its map, where it has one, is the column that the kind of record is read from.

    References are columns too, beside the words of the caption that say what they show.
    """
    sample: dict[str, Any] = {"key": record.key, "image": png(record.image), "caption": record.caption}
    if record.label:
        return {**sample, "label": record.label}
    if record.map is not None:
        return {**sample, need: png(record.map)}
    if record.edited is None:
        pictures = {f"{REFERENCE}{name}": png(shown.image) for name, shown in record.reference.items()}
        return {**sample, **pictures, **{f"{WORDS}{name}": shown.words for name, shown in record.reference.items()}}
    pair = {"edited_image": png(record.edited), "instruction": record.instruction}
    return {**sample, **pair, "edited_caption": record.edited_caption, "kind": record.kind}


def png(image: Tensor) -> bytes:
    """(3, H, W) uint8 -> the bytes of a PNG file."""
    buffer = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def files(sample: Sample) -> dict[str, bytes] | None:
    """Files of a sample by extension: `image.png`, ..., and `json`; None where a picture is none."""
    pictures = {name: value for name, value in sample.items() if isinstance(value, bytes)}
    texts = {name: value for name, value in sample.items() if not isinstance(value, bytes)}
    try:
        found = {f"{name}.{picture_ending(value)}": value for name, value in pictures.items()}
    except Unreadable:
        return None
    return {**found, "json": json.dumps(texts, ensure_ascii=False, default=str).encode()}


def write_shards(url: str, parts: Mapping[Split, Samples], shard_mib: float = 128) -> dict[str, int]:
    """Write `<split>/shard-000000.tar`, ... and, last, the index. Returns samples by split, and `unreadable`.

    Without its index a folder is no data set, so one that was cut off is never mistaken for a whole one.
    """
    try:
        fs, root = fsspec.url_to_fs(url.rstrip("/"))
        if fs.exists(f"{root}/{INDEX}"):
            raise ValueError(f"out={url}: holds shards already; choose another folder")
        index: dict[str, list[dict[str, Any]]] = {}
        for split, samples in parts.items():
            index[split] = []
            fs.makedirs(f"{root}/{split}", exist_ok=True)
            for data, about in pack_tars(samples, int(shard_mib * 2**20)):
                file = f"{split}/shard-{len(index[split]):06d}.tar"
                write_whole(fs, f"{root}/{file}", data)
                index[split].append({"file": file, "bytes": len(data), **about})
        write_whole(fs, f"{root}/{INDEX}", json.dumps({"format": FORMAT, "splits": index}).encode())
    except (OSError, ImportError) as error:
        raise ValueError(f"out={url}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    counts: dict[str, int] = {s: sum(len(p["starts"]) - 1 for p in shards) for s, shards in index.items()}
    return {**counts, "unreadable": sum(map(len, parts.values())) - sum(counts.values())}


def write_whole(fs: Any, path: str, data: bytes) -> None:
    """Write a file, or leave none: a full disk keeps a part of it, which would be taken for a shard."""
    try:
        fs.pipe_file(path, data)
    except OSError:
        with suppress(OSError):
            fs.rm_file(path)
        raise


def pack_tars(found: Iterable[Sample | None], most: int) -> Iterator[tuple[bytes, dict[str, list[Any]]]]:
    """Tars of about `most` bytes, with what the index says of them."""
    batch: list[dict[str, bytes]] = []
    held = first = 0
    for sample in found:
        content = None if sample is None else files(sample)
        if content is None:
            continue
        batch.append(content)
        held += sum(map(len, content.values()))
        if held >= most:
            yield _tar(batch, first)
            held, first, batch = 0, first + len(batch), []
    if batch:
        yield _tar(batch, first)


def _tar(batch: Sequence[dict[str, bytes]], first: int) -> tuple[bytes, dict[str, list[Any]]]:
    """One tar as WebDataset writes it, and what the index says of it."""
    try:
        from webdataset import TarWriter
    except ImportError:
        raise missing_extra("webdataset") from None
    buffer = BytesIO()
    with TarWriter(buffer, encoder=False, mtime=0) as writer:
        for k, content in enumerate(batch):
            writer.write({"__key__": f"{first + k:09d}", **content})
    return buffer.getvalue(), describe_shard("shard", BytesIO(buffer.getvalue()))


def write_index(url: str, out: str | None = None) -> dict[str, int]:
    """`index.json` for tars that have none, beside them or in the folder `out`; samples by split."""
    content = index_shards(url)
    try:
        fs, root = fsspec.url_to_fs((out or url).rstrip("/"))
        fs.makedirs(root, exist_ok=True)
        write_whole(fs, f"{root}/{INDEX}", json.dumps(content).encode())
    except (OSError, ImportError) as error:
        raise ValueError(f"{out or url}/{INDEX}: cannot be written ({error})") from None
    return {s: sum(len(p["starts"]) - 1 for p in content["splits"].get(s, [])) for s in SPLITS}
