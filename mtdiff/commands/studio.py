"""What the demo does, without its page: requests of one or two runs, read, checked, drawn and timed.

Letters: H W picture.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtdiff.config.drawing import Inherit
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture
from mtdiff.files import shown
from mtdiff.model.inheritance import Inheritance
from mtdiff.model.sampling import Guidance
from mtdiff.pictures import lay_on_white, load_picture
from mtdiff.runs.load import load_run
from mtdiff.runs.model import Model, to_pil

SHIPPED = "mtu-nano"
MOST_STEPS = 1000
EXAMPLES = 16  # of each task, of the shipped test pictures


@dataclass(frozen=True)
class Request:
    """What a visitor asks for. image, mask: RGB and a layer of strokes, of one size; None where there is none.

    inherit: of so many steps one is computed whole; 1: all of them.
    """

    task: str
    prompt: str
    image: Image.Image | None
    mask: Image.Image | None
    seed: int
    steps: int
    image_guidance: float
    text_guidance: float
    inherit: int


class Studio:
    """One or two trained runs that draw the same requests. runs: folders, or names of shipped adapters."""

    def __init__(self, runs: Sequence[str], **options: Any) -> None:
        names = dict.fromkeys(Path(run).name or run for run in runs)
        labels = list(names) if len(names) == len(runs) else list(runs)
        self.models: dict[str, Model] = {
            shown(label): load_run(run, **options) for label, run in zip(labels, runs, strict=True)
        }
        first = next(iter(self.models.values()))
        shared = [task for task in first.tasks if all(task in model.tasks for model in self.models.values())]
        if not shared:
            raise ValueError(f"run={shown(runs[1])}: shares no task with {shown(runs[0])}, expected at least one")
        self.tasks = {task: first.takes[task] for task in shared}
        self.first = first
        self._examples = 0

    def guidance_of(self, task: str) -> Guidance:
        """The scales that the first run was judged with."""
        return self.first.painter.guidance.get(task, Guidance())

    def draw(self, request: Request) -> list[tuple[Image.Image, str]]:
        """A picture of each run from the same noise, and the seconds that it took. ValueError in one line."""
        return [self._draw_one(name, model, request) for name, model in self.models.items()]

    def _draw_one(self, name: str, model: Model, request: Request) -> tuple[Image.Image, str]:
        takes = self.tasks[request.task]
        if not 1 <= request.steps <= MOST_STEPS:
            raise ValueError(f"steps={request.steps}: expected 1 to {MOST_STEPS}")
        mask = request.mask if takes.mask else None
        if takes.image and request.image is None:
            raise ValueError(f"image: task {request.task!r} needs one")
        painter = replace(model.painter, steps=request.steps, inherit=read_inheritance(request.inherit))
        began = time.perf_counter()
        (drawn,) = Model(painter, model.tasks)(
            request.task,
            request.prompt if takes.prompt else "",
            request.image if takes.image else None,
            mask,
            seed=request.seed,
            guidance=Guidance(image=request.image_guidance, text=request.text_guidance),
        )
        return drawn, f"{name}: {time.perf_counter() - began:.2f} s"

    def take_example(self, task: str) -> tuple[Image.Image | None, Image.Image | None, str]:
        """The next of the shipped test examples that are unselected: picture, strokes of its hole, prompt."""
        source = EmojiSource(size=self.first.size)
        data = Mixture.first_examples(source, [self.first.tasks[task]], "test", EXAMPLES)
        example = data[self._examples % len(data)]
        self._examples += 1
        takes = self.tasks[task]
        picture = to_pil(example.target if takes.mask else example.source) if takes.image else None
        return picture, draw_strokes(example.mask[0].numpy()) if takes.mask else None, example.prompt


def read_inheritance(every: int) -> Inheritance | None:
    return None if every == 1 else Inheritance(**vars(Inherit(level="block", every=every)))


def draw_strokes(hole: "np.ndarray[Any, Any]") -> Image.Image:
    """A hole (H, W), 1 inside, as white strokes on a transparent layer."""
    pixels = np.full((*hole.shape, 4), 255, np.uint8)
    pixels[..., 3] = (hole >= 0.5) * 255
    return Image.fromarray(pixels, "RGBA")


def read_upload(path: str | Path) -> Image.Image:
    """An upload as RGB. ValueError in one line where it is no picture, too large, or damaged."""
    try:
        return lay_on_white(load_picture("picture", path))
    except ValueError as error:
        raise ValueError(str(error).replace(f"picture={shown(path)}", f"picture={shown(Path(path).name)}")) from None


def join_layers(layers: Sequence[Image.Image | None]) -> Image.Image | None:
    """All layers of an editor as one RGBA picture of strokes; None where nothing is painted."""
    painted = [layer.convert("RGBA") for layer in layers if layer is not None and layer.convert("RGBA").getbbox()]
    if not painted:
        return None
    joined = painted[0]
    for layer in painted[1:]:
        joined = Image.alpha_composite(joined, layer)
    return joined


def read_editor(value: Mapping[str, Any] | None) -> tuple[Image.Image | None, Image.Image | None]:
    """The picture and the strokes of an editor: {background, layers, composite}, each PIL or None."""
    if not value or value.get("background") is None:
        return None, None
    picture: Image.Image = value["background"]
    return lay_on_white(picture), join_layers(value.get("layers") or [])
