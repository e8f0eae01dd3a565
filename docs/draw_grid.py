"""Draw the README's picture: source, answer and truth of the first test examples of every task.

    python docs/draw_grid.py                 writes docs/grid.webp with the shipped adapter

The examples are unselected. Letters: H W pixels.
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mtdiff import load_run
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture
from mtdiff.types import Example

TILE, GAP, MARGIN, LINE = 88, 4, 26, 17  # pixels: a picture, between pictures, between examples, a line of text
OUT = Path(__file__).parent / "grid.webp"


def tile(picture: Tensor) -> Image.Image:
    """(3, H, W) in [-1, 1] -> a tile."""
    pixels = ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels).resize((TILE, TILE), Image.Resampling.LANCZOS)


def source_tile(example: Example) -> Image.Image:
    """The source with its hole in grey; all grey where the task starts from the prompt alone."""
    return tile(example.source * (1 - example.mask) + 0.7 * example.mask)


def draw_grid(run: str = "mtu-nano", examples: int = 2) -> Image.Image:
    """One row a task: `examples` times source, answer and truth, with the prompt below."""
    model = load_run(run)
    tasks = list(model.tasks)
    data = Mixture.first_examples(EmojiSource(), [model.tasks[name] for name in tasks], "test", examples)
    shown = [data[i] for i in range(len(data))]
    font = ImageFont.load_default(12)
    wide, high = 3 * TILE + 2 * GAP, TILE + 2 * LINE + 8
    page = Image.new("RGB", (examples * (wide + MARGIN) - MARGIN, len(tasks) * (high + LINE)), "white")
    pen = ImageDraw.Draw(page)
    for i, example in enumerate(shown):
        row, column = divmod(i, examples)
        left, top = column * (wide + MARGIN), row * (high + LINE)
        name = tasks[example.task]
        given = None if bool(example.mask.all()) else example.source
        hole = example.mask if 0 < float(example.mask.mean()) < 1 else None
        (answer,) = model(name, example.prompt, given, hole, seed=i)
        titles = ("source" if given is not None else "(no source)", "answer", "truth")
        tiles = (source_tile(example), answer.resize((TILE, TILE), Image.Resampling.LANCZOS), tile(example.target))
        pen.text((0, top), name.replace("_", " "), "black", ImageFont.load_default(14))
        top += LINE
        for k, (title, picture) in enumerate(zip(titles, tiles, strict=True)):
            pen.text((left + k * (TILE + GAP), top), title, "#555555", font)
            page.paste(picture, (left + k * (TILE + GAP), top + LINE))
        pen.text((left, top + LINE + TILE + 1), shorten(example.prompt, wide, font), "black", font)
    return page


def shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text, cut with an ellipsis where it is wider than `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while font.getlength(text + " ...") > width:
        text = text[:-1]
    return text.rstrip() + " ..."


if __name__ == "__main__":
    draw_grid().save(OUT, quality=40, method=6)
    print(f"{OUT}: {OUT.stat().st_size} bytes")
