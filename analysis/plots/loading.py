"""The study that a notebook shows."""

import os
from collections.abc import Callable
from pathlib import Path

from mtdiff.results.study import Study, read
from mtdiff.results.variants import methods

from .canvas import say

COMMITTED = str(Path(__file__).resolve().parents[2] / "experiments" / "results" / "**" / "*.json")


def load(results: str | None = None, finding: Callable[[Study], str] | None = None) -> Study:
    """The study in the files of a glob pattern: `results`, else MTDIFF_RESULTS, else what is committed.

    finding: says in one sentence what the study answers.
    """
    patterns = results or os.environ.get("MTDIFF_RESULTS") or COMMITTED
    study = read(patterns)
    if study.runs:
        if finding is not None:
            say(finding(study))
        first = study.runs[0].result
        count, seeds = len(study.complete), sorted({run.result.seed for run in study.complete})
        say(
            f"Complete runs on {first.backbone}/{first.data}: {count}; not complete: {len(study.runs) - count}. "
            f"Seeds: {', '.join(map(str, seeds)) or 'none'}. Methods: {', '.join(methods(study))}."
        )
    for note in study.notes:
        say(note)
    return study
