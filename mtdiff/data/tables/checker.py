"""Reads a whole data set before a run does: counts, sizes, empty captions, and what cannot be read."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.table import Table as Printed

from mtdiff.data.buckets import nearest
from mtdiff.data.source import Source
from mtdiff.data.tables.source import TableSource
from mtdiff.files.pictures import Unreadable, open_picture, upright_size
from mtdiff.rng import numpy_rng
from mtdiff.types import SPLITS, Need, Split

SHOWN = 20
"""So many unreadable rows are listed for each kind and split."""
PART = 1024
"""So many rows wait for the threads at a time."""
COLUMNS = ("rows", "published", "read", "unreadable", "mended", "empty_captions", "small")


@dataclass(frozen=True)
class Finding:
    """One row: the size of its picture (W, H), whether a caption is missing, or why it cannot be read.

    mended: whether half a character in its texts was replaced.
    """

    index: int
    size: tuple[int, int] | None = None
    empty: bool = False
    reason: str | None = None
    mended: bool = False


def check_source(source: Source, limit: int | None = None, threads: int = 4) -> dict[str, Any]:
    """The report as JSON holds it: {need: {split: {rows, read, unreadable, ...}}}. limit: rows read of each."""
    kinds = [(n, s) for n in get_args(Need) for s in SPLITS if source.size(n, s)]
    report: dict[str, Any] = {need: {} for need, _ in kinds}
    for need, split in kinds:
        rows = source.size(need, split)
        read = rows if limit is None else min(limit, rows)
        findings = list(look(source, need, split, range(read), threads))
        report[need][split] = {
            "rows": rows,
            "published": published_size(source, need, split),
            **summary(findings, source),
        }
    return report


def look(source: Source, need: Need, split: Split, rows: range, threads: int) -> Iterator[Finding]:
    """Decoding lets go of the interpreter, so threads are enough."""
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(rows), PART):
            yield from pool.map(lambda index: finding(source, need, split, index), rows[start : start + PART])


def finding(source: Source, need: Need, split: Split, index: int) -> Finding:
    rng = numpy_rng("check", need, split, index)
    if not isinstance(source, TableSource):
        record = source.record(need, split, index, rng)
        height, width = record.image.shape[1:]
        return Finding(index, (width, height), not record.caption)
    try:
        row = source.tables[need].row(split, index)
        record = source.make_record(need, split, row, rng)
    except Unreadable as error:
        return Finding(index, reason=str(error))
    image = open_picture(row.columns[source.roles[need, split]["image"]], source.max_pixels)
    return Finding(index, upright_size(image), not record.caption, mended=row.mended)


def published_size(source: Source, need: Need, split: Split) -> int | None:
    """The size that the configuration says the data set was published with."""
    return source.counts.get(need, {}).get(split) if isinstance(source, TableSource) else None


def summary(findings: Sequence[Finding], source: Source) -> dict[str, Any]:
    """small: pictures whose shorter side is below the side they are enlarged to."""
    sizes = np.array([f.size for f in findings if f.size is not None], np.int64).reshape(-1, 2)
    bad = [f for f in findings if f.reason is not None]
    side = source.side if isinstance(source, TableSource) else 0
    return {
        "read": len(findings),
        "unreadable": len(bad),
        "mended": sum(f.mended for f in findings),
        "empty_captions": sum(f.empty for f in findings),
        "small": int((sizes.min(1) < side).sum()) if len(sizes) else 0,
        "width": spread(sizes[:, 0]),
        "height": spread(sizes[:, 1]),
        "buckets": shares(sizes, source),
        "first_unreadable": [{"row": f.index, "reason": f.reason} for f in bad[:SHOWN]],
    }


def shares(sizes: NDArray[np.int64], source: Source) -> dict[str, int] | None:
    """Pictures in each of the shapes that `data.buckets` asks for; None where it does not."""
    if not isinstance(source, TableSource) or not source.shapes or not len(sizes):
        return None
    places = nearest(source.shapes, np.log(sizes[:, 0] / sizes[:, 1]))
    return {str(shape): int((places == k).sum()) for k, shape in enumerate(source.shapes)}


def spread(values: Any) -> dict[str, int] | None:
    if not len(values):
        return None
    return {"min": int(values.min()), "median": int(np.median(values)), "max": int(values.max())}


def problems(report: dict[str, Any]) -> list[str]:
    """What should be mended before a run, one line each."""
    found = []
    for need, splits in report.items():
        for split, part in splits.items():
            where = f"{need}/{split}"
            if part["unreadable"]:
                first = part["first_unreadable"][0]
                reason = f"first: row {first['row']}, {first['reason']}"
                found.append(f"{where}: {part['unreadable']} of {part['read']} rows unreadable ({reason})")
            if need == "caption" and part["empty_captions"]:
                found.append(f"{where}: {part['empty_captions']} of {part['read']} captions empty")
            if part["published"] not in (None, part["rows"]):
                found.append(f"{where}: {part['rows']} rows, published with {part['published']}")
    return found


def print_report(report: dict[str, Any]) -> Printed:
    table = Printed(title="data; width and height: smallest, median, largest")
    bucketed = any(part["buckets"] for splits in report.values() for part in splits.values())
    headings = ("need", "split", *(name.replace("_", " ") for name in COLUMNS), "width", "height")
    for heading in (*headings, "buckets") if bucketed else headings:
        table.add_column(heading, no_wrap=True)
    for need, splits in report.items():
        for split, part in splits.items():
            counts = ("" if part[k] is None else str(part[k]) for k in COLUMNS)
            sides = (
                "" if part[k] is None else "{min} / {median} / {max}".format(**part[k]) for k in ("width", "height")
            )
            held = ", ".join(f"{shape} {count}" for shape, count in (part["buckets"] or {}).items())
            table.add_row(need, split, *counts, *sides, *([held] if bucketed else []))
    return table
