"""The report page at the end of a run, a sweep or a suite: where it goes, and one line where it cannot be made."""

import os
from collections.abc import Sequence
from pathlib import Path

from mtdiff.errors import one_line, shown
from mtdiff.files.writing import first_process


def report_run(folder: Path) -> None:
    """`report.html` in a run's folder, which holds its pictures too."""
    make_report([folder], folder / "report.html", inline=True)


def report_runs(folders: Sequence[Path], name: str) -> None:
    """`report-<name>.html` in the folder that holds all of the runs."""
    if folders:
        place = os.path.relpath(os.path.commonpath([folder.absolute().parent for folder in folders]))
        make_report(folders, Path(place) / f"report-{name}.html")


def make_report(folders: Sequence[Path], out: Path, *, inline: bool = False) -> None:
    """Write the page and say where. What runs found out does not depend on it, so whatever fails here is one line."""
    if not first_process():
        return
    results = [folder / "result.json" for folder in folders]
    try:
        from mtdiff.results.find import try_to_load
        from mtdiff.results.page.write import write_report

        found = [try_to_load(path) for path in results if path.exists()]
        print(f"report: {shown(write_report(found, out, inline=inline), 1000)}", flush=True)
    except Exception as error:
        print(f"report: not made, {shown(one_line(error), 300)}", flush=True)
