"""Complete runs copied into a small folder that can be committed."""

import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

from mtdiff.errors import shown
from mtdiff.files.writing import write_atomically
from mtdiff.results.find import Found, find
from mtdiff.results.record import RUN, Result, Row
from mtdiff.results.samples import find_grid, read_grid

UNTESTED = ("psnr", "ssim", "pixel_accuracy")
"""Beginnings of the metrics whose scores a thinned result leaves out; their means and intervals stay."""
QUALITY = 50  # of WebP: a tenth of the PNG's bytes for the study's pictures of seed 0


def name_run(path: Path) -> str:
    """The run folder's name, or the file's own."""
    return path.parent.name if path.name == "result.json" else path.stem


def choose_complete(found: Sequence[Found]) -> dict[str, Found]:
    """Complete runs by name. What is left out is said: what is not complete, and all but the first of a name."""
    kept: dict[str, Found] = {}
    for one in found:
        name = name_run(one.path)
        if one.result is None or one.result.status != "complete":
            report_left_out(one.path, one.reason if one.result is None else one.result.status)
        elif name in kept:
            report_left_out(one.path, f"another run is called {name} too: {kept[name].path}")
        else:
            kept[name] = one
    return kept


def report_left_out(path: Path, why: str | None) -> None:
    print(f"collect.py: left out: {shown(path, 300)}: {shown(why, 300)}", file=sys.stderr)


def collect_runs(
    runs: str, folder: Path, *, pictures: bool, seeds: Collection[int], thin: bool = False
) -> Iterator[Path]:
    """Write the complete runs that a glob pattern finds into `folder`, and yield the files written.

    pictures: their sample grids too, of runs with one of the `seeds`, of all runs where none is named. thin: as
    `thin_result` says.
    """
    found = find(runs)
    if not found:
        raise ValueError(f"runs={runs}: no such file")
    known: set[Row] = set()
    for name, one in choose_complete(found).items():
        assert one.result is not None
        result = strip_place(one.result)
        (thin_result(result, known) if thin else result).save(folder / f"{name}.json")
        yield folder / f"{name}.json"
        if pictures and (not seeds or one.result.seed in seeds):
            yield from copy_pictures(one, folder / name)


def strip_place(result: Result) -> Result:
    """Without the folder of a machine: `run_dir` keeps its last part."""
    place = result.config.get("run_dir")
    return result if place is None else replace(result, config={**result.config, "run_dir": Path(place).name})


def thin_result(result: Result, known: set[Row]) -> Result:
    """A result of many that lie together: without the scores that no test is made with, those left to four digits, and
    without references that are in `known` already. What it adds itself goes there."""
    kept = []
    for row in result.rows:
        if row.model == RUN or row not in known:
            kept.append(row)
            known.update([row] if row.model != RUN else [])
    return replace(result, rows=[thin_scores(row) for row in kept])


def thin_scores(row: Row) -> Row:
    if row.values is None or row.metric.startswith(UNTESTED):
        return replace(row, values=None)
    return replace(row, values=tuple(None if v is None else float(f"{v:.4g}") for v in row.values))


def copy_pictures(one: Found, target: Path) -> Iterator[Path]:
    """The sample grids of a run folder as WebP: `<target>-<task>.webp`."""
    assert one.result is not None
    for task in one.result.tasks:
        try:
            source = find_grid(one.path, task)
            if source is not None:
                picture, path = read_grid(source), target.with_name(f"{target.name}-{task}.webp")
                content = BytesIO()
                picture.save(content, "webp", quality=QUALITY, method=6)
                write_atomically(path, content.getvalue())
                yield path
        except ValueError as error:
            report_left_out(one.path, str(error))
