"""Draw the picture sheets of docs/joint.md and docs/references.md from run folders.

    python docs/draw_sheets.py sheet=joint runs=runs/joint-X-0                       writes docs/joint.webp
    python docs/draw_sheets.py sheet=references runs=runs/a,runs/b,runs/c            writes docs/references.webp

joint: a run on both joint tasks. references: runs of one reference each, which are added up. Examples are the first of
the test set, unselected. number=4: of examples. out=<file>: another place.

Letters: H W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from draw_grid import GAP, LINE, TILE, shorten, source_tile, tile
from PIL import Image, ImageDraw, ImageFont

from mtdiff import load_run
from mtdiff.commands.arguments import override_defaults
from mtdiff.commands.command import run_command
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture
from mtdiff.runs.model import Model
from mtdiff.types import REFERENCE, Example

DOCS = Path(__file__).parent
TITLE = 150  # pixels for the titles of rows
DEFAULTS = {"sheet": "", "runs": "", "number": "4", "out": ""}
SETS = ((), ("object",), ("style",), ("tone",), ("object", "style"), ("object", "style", "tone"))
"""References that the columns of a sheet are drawn with; those with a tone where the emoji has one."""


@dataclass(frozen=True)
class Tile:
    """A picture of a sheet, or a blank, with a line of text below."""

    picture: Image.Image | None
    text: str = ""


Rows = Mapping[str, Sequence[Tile]]


def lay_out(rows: Rows, heads: Sequence[str] = ()) -> Image.Image:
    """A sheet: a title, then tiles, for each row; a head above each column."""
    small, plain = ImageFont.load_default(10), ImageFont.load_default(12)
    columns, high, top = max(map(len, rows.values())), TILE + LINE, LINE if heads else 0
    page = Image.new("RGB", (TITLE + columns * (TILE + GAP) - GAP, top + len(rows) * high), "white")
    pen = ImageDraw.Draw(page)
    for k, head in enumerate(heads):
        pen.text((TITLE + k * (TILE + GAP), 2), shorten(head, TILE, small), "#555555", small)
    for i, (title, tiles) in enumerate(rows.items()):
        y = top + i * high
        pen.text((0, y + TILE // 2 - 6), shorten(title, TITLE - GAP, plain), "black", plain)
        for k, one in enumerate(tiles):
            x = TITLE + k * (TILE + GAP)
            if one.picture is not None:
                page.paste(one.picture.resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))
            pen.text((x, y + TILE + 1), shorten(one.text, TILE, small), "#555555", small)
    return page


def read_examples(model: Model, task: str, number: int, **options: Any) -> list[Example]:
    """The first test examples of a task of a model. options: of the shipped set."""
    found = Mixture.first_examples(EmojiSource(**options), [model.tasks[task]], "test", number)
    return [found[i] for i in range(len(found))]


def draw_joint(model: Model, number: int) -> Image.Image:
    """Rows: what is known, and what is drawn from it. Columns: test examples of the two tasks, one below the other."""
    rows = dict(list_masked_rows(model, read_examples(model, "joint_masked", number)))
    return lay_out(rows | dict(list_label_rows(model, read_examples(model, "joint_label", number))))


def list_masked_rows(model: Model, examples: Sequence[Example]) -> Iterator[tuple[str, list[Tile]]]:
    task, prompts = "joint_masked", [example.prompt for example in examples]
    targets, sources = [e.target for e in examples], [e.source for e in examples]
    masked = model.answer(task, prompts, sources, [e.mask for e in examples], given={"known": "masked"})
    whole = model.answer(task, prompts, targets, given={"known": "picture"})
    free = model.answer(task, prompts, given={"known": "none"})
    yield "picture", [Tile(tile(e.target), e.prompt) for e in examples]
    yield "masked: given", [Tile(source_tile(e)) for e in examples]
    yield "... restored", [Tile(a.picture) for a in masked]
    yield "picture given: masked", [Tile(a.others.get("masked")) for a in whole]
    yield "nothing given", [Tile(a.picture) for a in free]
    yield "... and its masked", [Tile(a.others.get("masked")) for a in free]


def list_label_rows(model: Model, examples: Sequence[Example]) -> Iterator[tuple[str, list[Tile]]]:
    task = "joint_label"
    names = [model.tasks[task].name_numbers({"label": int(e.extra["label"])}).get("label", "") for e in examples]
    told = model.answer(task, image=[e.target for e in examples])
    drawn = model.answer(task, given=[{"label": name} if name else {} for name in names])
    yield "picture, its label", [Tile(tile(e.target), name) for e, name in zip(examples, names, strict=True)]
    yield "... label told", [Tile(None, answer.said.get("label", "")) for answer in told]
    yield "label given", [Tile(a.picture, name) for a, name in zip(drawn, names, strict=True)]


def draw_references(model: Model, number: int) -> Image.Image:
    """Rows: texts. Columns: the references, then drawings with more and more of them, then the truth."""
    (task,) = model.tasks
    names = list(getattr(model.tasks[task], "reference", ()))
    sets = [part for part in SETS if set(part) <= set(names)]
    heads = [*(f"given: {name}" for name in names), *(" + ".join(part) or "text alone" for part in sets), "truth"]
    rows = {}
    for i, example in enumerate(read_examples(model, task, number, scenes=0, white=1)):
        given = {name: example.extra[REFERENCE + name] for name in names if REFERENCE + name in example.extra}
        tiles = [Tile(tile(given[name]) if name in given else None) for name in names]
        for part in sets:  # each from the same noise
            shown = {name: given[name] for name in part if name in given}
            complete = len(shown) == len(part)
            tiles.append(Tile(model(task, example.prompt, reference=shown, seed=i)[0] if complete else None))
        rows[f"{i + 1}. {example.prompt}"] = [*tiles, Tile(tile(example.target))]
    return lay_out(rows, heads)


SHEETS: dict[str, Callable[[Model, int], Image.Image]] = {"joint": draw_joint, "references": draw_references}


def save_sheet(sheet: str, runs: Sequence[str], number: int = 4, out: Path | None = None) -> Path:
    """Draw a sheet from run folders and write it; several are added up."""
    model = load_run(runs[0]) if len(runs) == 1 else load_run(list(runs))
    path = out or DOCS / f"{sheet}.webp"
    SHEETS[sheet](model, number).save(path, quality=40, method=6)
    return path


def main(arguments: list[str]) -> None:
    options = override_defaults(arguments, DEFAULTS)
    if options["sheet"] not in SHEETS:
        raise ValueError(f"sheet={options['sheet']}: expected one of {', '.join(SHEETS)}")
    if not options["runs"] or not options["number"].isdecimal() or int(options["number"]) < 1:
        raise ValueError("runs=..., number=...: expected folders of runs with commas between, and a number from 1")
    out = Path(options["out"]) if options["out"] else None
    path = save_sheet(options["sheet"], options["runs"].split(","), int(options["number"]), out)
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    run_command(main, __doc__)
