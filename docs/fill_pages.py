"""Put finished studies into the pages: keep their results, draw their picture sheets, write the tables anew.

    python docs/fill_pages.py study=joint,joint_single          after python experiments/run.py suite=joint,joint_single

study: names of suites, whose runs lie in runs/ (with the mergers and sums of experiments/studies). Complete runs go,
thinned, into experiments/results/<suite>/, but for those that another folder there holds already; pictures into docs/.
Other options are those that the suites were run with, such as training.steps=480. Notebooks read the same results.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from draw_sheets import save_sheet
from write_table import RESULTS, write_pages

from mtdiff.commands.arguments import split_options
from mtdiff.commands.command import run_command
from mtdiff.commands.suites import plan_suite
from mtdiff.results.collect import collect_runs
from mtdiff.runs.suite import Planned, complete

MADE_OF = {"merging": "merged-*", "emma": "sum-*"}
"""Folders of runs that nobody trained, by the suite whose runs they are made of."""


def list_folders(study: str, runs: Sequence[Planned]) -> list[Path]:
    """Complete runs of a study that no folder of another study holds."""
    roots = dict.fromkeys(run.folder.parent for run in runs)
    made = [path for root in roots for path in sorted(root.glob(MADE_OF.get(study, " ")))]
    held = {path.stem for path in RESULTS.glob("*/*.json") if path.parent.name != study}
    return [path for path in [*(run.folder for run in runs), *made] if complete(path) and path.name not in held]


def find_sheet_runs(study: str, runs: Sequence[Planned]) -> list[str]:
    """Folders that a study's sheet is drawn from: seed 0 of the run on both joint tasks, or of a module a reference."""
    if study == "joint":
        return [str(run.folder) for run in runs if run.folder.name == "joint-X-0" and complete(run.folder)]
    if study == "emma":
        from references import group_modules

        modules = group_modules([run for run in runs if complete(run.folder)])
        return [str(run.folder) for run in modules.get(0, {}).values()]
    return []


def fill_study(study: str, overrides: Sequence[str]) -> Iterator[str]:
    """Keep a study's results and draw its sheet; says what was written."""
    runs = plan_suite(study, overrides)
    if folders := list_folders(study, runs):
        patterns = ",".join(str(folder / "result.json") for folder in folders)
        written = list(collect_runs(patterns, RESULTS / study, pictures=False, seeds=(), thin=True))
        size = sum(path.stat().st_size for path in written) / 1e6
        yield f"{study}: {len(written)} of {len(runs)} planned and further runs kept, {size:.2f} MB"
    if found := find_sheet_runs(study, runs):
        path = save_sheet("references" if study == "emma" else study, found)
        yield f"{path}: {path.stat().st_size} bytes"


def main(arguments: list[str]) -> None:
    given, overrides = split_options(arguments, ("study",))
    if not given.get("study"):
        raise ValueError("study=...: expected names of suites with commas between")
    for study in given["study"].split(","):
        for line in fill_study(study, overrides):
            print(line)
    for page in write_pages():
        print(page)


if __name__ == "__main__":
    run_command(main, __doc__)
