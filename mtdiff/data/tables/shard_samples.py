"""The files of one sample in a WebDataset tar, and the columns they hold."""

import codecs
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

from mtdiff.files.pictures import ENDINGS, Unreadable

SAMPLE = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")
"""Key and extension of a file, by WebDataset's rule; what has none, such as README and ._0.jpg, is in no sample."""
META = re.compile(r"__[^/]*__($|/)")


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
