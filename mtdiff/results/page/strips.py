"""The pictures of a page: one strip of examples for each run's answers, and one each for their sources and truths.

Run folders may be someone else's: pictures are read within bounds, and what does not fit is left out with its reason.
"""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mtdiff.errors import shown
from mtdiff.files.writing import write_atomically
from mtdiff.results.samples import read_prompts, read_strips
from mtdiff.results.study import Run

Pixels = NDArray[np.uint8]
ALIKE = 12.0
"""Mean difference of two truths, in 255ths, up to which they are of the same examples: WebP blurs a little."""
QUALITY = 90  # of WebP
EMPTY = 2.0  # standard deviation of a source that is plain grey: the task has none


@dataclass
class Store:
    """Where a page's pictures lie: beside it under names made of their content, or inside of it.

    folder: beside the page; None: inside. name: how the page calls the folder.
    """

    folder: Path | None
    name: str = ""
    written: dict[str, str] = field(default_factory=dict)

    def keep(self, pixels: Pixels) -> str:
        """The address of a picture (H, W, 3)."""
        content = BytesIO()
        Image.fromarray(pixels).save(content, "webp", quality=QUALITY, method=2)
        data = content.getvalue()
        digest = hashlib.sha256(data).hexdigest()[:16]
        if digest not in self.written:
            self.written[digest] = self._write(f"{digest}.webp", data)
        return self.written[digest]

    def _write(self, name: str, data: bytes) -> str:
        if self.folder is None:
            return f"data:image/webp;base64,{b64encode(data).decode()}"
        if not (self.folder / name).exists():
            write_atomically(self.folder / name, data)
        return f"{self.name}/{name}"


@dataclass
class Strips:
    """Of one task: the source (H, W, 3), none where the task has none, the truth, and answers by the run's place."""

    truth: Pixels
    source: Pixels | None
    prompts: Sequence[str]
    answers: dict[int, Pixels] = field(default_factory=dict)


def gather_strips(runs: Sequence[Run], labels: Sequence[str], task: str) -> tuple[Strips | None, list[str]]:
    """The answers of all runs to the same examples as the first's, and why others are left out."""
    found: Strips | None = None
    left_out: list[str] = []
    without = []
    for place, (run, label) in enumerate(zip(runs, labels, strict=True)):
        if task not in run.result.tasks or run.result.status != "complete":
            continue
        try:
            strips, prompts = read_strips(run.path, task), read_prompts(run.path, task)
        except ValueError as error:
            left_out.append(f"{task}: the pictures of {label} cannot be shown: {shown(error, 300)}")
            continue
        if strips is None:
            without.append(label)
            continue
        found = found or begin_strips(strips, prompts)
        if alike(strips[2], found.truth):
            add_answers(found, place, strips[1])
        else:
            left_out.append(f"{task}: the pictures of {label} are of other examples.")
    if without:
        left_out.append(f"{task}: {len(without)} runs keep no pictures: {'; '.join(without)}.")
    return found, left_out


def begin_strips(strips: Sequence[Pixels], prompts: Sequence[str]) -> Strips:
    source, _, truth = strips
    return Strips(truth, None if source.std() < EMPTY else source, prompts)


def add_answers(found: Strips, place: int, answers: Pixels) -> None:
    """One more run; all strips are cut to the examples that all of them have."""
    found.answers[place] = answers
    width = min(answers.shape[1], found.truth.shape[1])
    found.truth = found.truth[:, :width]
    found.source = None if found.source is None else found.source[:, :width]
    found.answers = {k: strip[:, :width] for k, strip in found.answers.items()}


def alike(a: Pixels, b: Pixels) -> bool:
    """Whether two strips begin with the same examples; one of them may have more."""
    if a.shape[0] != b.shape[0]:
        return False
    width = min(a.shape[1], b.shape[1])
    return float(np.abs(a[:, :width].astype(float) - b[:, :width]).mean()) <= ALIKE


def describe_pictures(
    runs: Sequence[Run], labels: Sequence[str], store: Store
) -> tuple[list[dict[str, Any]], list[str]]:
    """A wall for each task that has pictures, as the page reads it, and what is left out."""
    walls, notes = [], []
    for task in dict.fromkeys(task for run in runs for task in run.result.tasks):
        found, left_out = gather_strips(runs, labels, task)
        notes += left_out
        if found is not None:
            walls.append({"task": shown(task), **describe_wall(found, store)})
    return walls, notes


def describe_wall(found: Strips, store: Store) -> dict[str, Any]:
    side, width = found.truth.shape[:2]
    count = width // side
    return {
        "count": count,
        "side": side,
        "prompts": [shown(prompt, 300) for prompt in found.prompts[:count]],
        "truth": store.keep(found.truth),
        "source": None if found.source is None else store.keep(found.source),
        "answers": {str(place): store.keep(pixels) for place, pixels in found.answers.items()},
    }
