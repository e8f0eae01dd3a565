"""`index.json`: where every sample of every shard starts, read and checked, or made by reading the tars' headers."""

import json
import tarfile
from collections.abc import Mapping
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

import fsspec

from mtdiff.data.tables.shard_samples import read_object, split_key
from mtdiff.data.tables.table import find_split
from mtdiff.files.pictures import ENDINGS, Unreadable, open_picture, upright_size
from mtdiff.types import SPLITS, Split

INDEX = "index.json"
FORMAT = "mtdiff shards 1"
LARGEST_JSON = 2**20
MAKE = "make it with: python experiments/convert_data.py index="


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
        if split not in SPLITS or not isinstance(shards, list) or not all(is_shard(s) for s in shards):
            raise ValueError(f"{where}: `splits.{split}`: expected a list of file, bytes, starts below the folder")
    if not any(content["splits"].values()):
        raise ValueError(f"{where}: names no shards")
    return content["splits"]


def is_shard(shard: Any) -> bool:
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
        if not listed or not all(map(is_size, sizes)):
            return False
    names = shard.get("columns", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return False
    return all(a < b for a, b in pairwise([-1, *starts, shard["bytes"] + 1]))


def is_size(size: Any) -> bool:
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


def index_shards(url: str) -> dict[str, Any]:
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
            found = {"file": file, "bytes": fs.size(path), **describe_shard(path, tar)}
        splits.setdefault(read_split(file), []).append(found)
    return {"format": FORMAT, "splits": splits}


def read_split(file: str) -> Split:
    """The split that the folders and the name of a tar say, in the words of `datasets`; else training."""
    path = PurePosixPath(file)
    return find_split([*path.parts[:-1], path.stem]) or "train"


def describe_shard(name: str, file: Any) -> dict[str, list[Any]]:
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
                        sizes[-1] = read_size(tar.extractfile(member))
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


def read_size(file: Any) -> list[int] | None:
    try:
        return list(upright_size(open_picture(file, max_pixels=2**62)))
    except Unreadable:
        return None
