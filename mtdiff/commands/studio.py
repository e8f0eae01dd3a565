"""What the demo does, without its page: requests of one or two runs, read, checked, drawn and timed.

Letters: H W picture.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtdiff.config.drawing import Inherit
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture
from mtdiff.errors import shown
from mtdiff.files.pictures import lay_on_white, load_picture
from mtdiff.model.inheritance import Inheritance
from mtdiff.model.sampling import Guidance
from mtdiff.runs.load import load_run
from mtdiff.runs.model import Answer, Model, to_pil
from mtdiff.tasks.base import Task
from mtdiff.types import REFERENCE, Example

SHIPPED = "mtu-nano"
MOST_STEPS = 1000
EXAMPLES = 16  # of each task, of the shipped test pictures


@dataclass(frozen=True)
class Request:
    """What a visitor asks for. image, mask: RGB and a layer of strokes, of one size; None where there is none.

    inherit: of so many steps one is computed whole; 1: all of them. references: pictures by name. choices: what is said
    besides, by name; "" leaves it open.
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
    references: Mapping[str, Image.Image] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Offer:
    """A test example as the page fills it in: picture, strokes of its hole, and the rest as in `Request`."""

    picture: Image.Image | None
    strokes: Image.Image | None
    prompt: str
    references: Mapping[str, Image.Image]
    choices: Mapping[str, str]


@dataclass(frozen=True)
class Controls:
    """What the page shows for a task. mask: whether strokes are looked at.

    references: by name, the runs that read it. choices: by name, the values that all runs that take it allow.
    """

    prompt: bool
    image: bool
    mask: bool
    references: Mapping[str, Sequence[str]]
    choices: Mapping[str, Sequence[str]]


class Studio:
    """One or two trained runs that draw the same requests.

    runs: folders, or names of shipped adapters; a list of them adds up. weights: of the runs in such a sum.
    """

    def __init__(
        self, runs: Sequence[str | Sequence[str]], weights: Sequence[float] | None = None, **options: Any
    ) -> None:
        self.models: dict[str, Model] = {
            label: load_run(run, weights=None if isinstance(run, str) else weights, **options)
            for label, run in zip(label_runs(runs), runs, strict=True)
        }
        self.first, *others = self.models.values()
        shared = [task for task in self.first.tasks if all(task in model.tasks for model in others)]
        if not shared:
            a, b = list(self.models)
            raise ValueError(f"run={b}: shares no task with {a}, expected at least one")
        self.tasks = {task: self._list_controls(task) for task in shared}
        self.references = list(dict.fromkeys(name for shows in self.tasks.values() for name in shows.references))
        self.choices = list(dict.fromkeys(name for shows in self.tasks.values() for name in shows.choices))
        self._examples = 0

    def _list_controls(self, task: str) -> Controls:
        takes = self.first.takes[task]
        references: dict[str, list[str]] = {}
        choices: dict[str, Sequence[str]] = {}
        for label, model in self.models.items():
            for name in list_references(model, task):
                references.setdefault(name, []).append(label)
            for name, values in list_choices(model, task).items():
                choices[name] = [value for value in choices.get(name, values) if value in values]
        return Controls(takes.prompt, takes.may_have_image, takes.mask, references, choices)

    def guidance_of(self, task: str) -> Guidance:
        """The scales that the first run was judged with."""
        return self.first.painter.guidance.get(task, Guidance())

    def draw(self, request: Request) -> list[tuple[Answer, str]]:
        """The answer of each run from the same noise, and the seconds that it took. ValueError in one line."""
        if not 1 <= request.steps <= MOST_STEPS:
            raise ValueError(f"steps={request.steps}: expected 1 to {MOST_STEPS}")
        return [self._draw_one(name, model, request) for name, model in self.models.items()]

    def _draw_one(self, name: str, model: Model, request: Request) -> tuple[Answer, str]:
        """What a run does not read is kept from it: a picture for another task, a reference of the other run."""
        task, shows, reads = request.task, self.tasks[request.task], list_references(model, request.task)
        painter = replace(model.painter, steps=request.steps, inherit=read_inheritance(request.inherit))
        taken = list_choices(model, task)
        began = time.perf_counter()
        (answer,) = Model(painter, model.tasks).answer(
            task,
            request.prompt if shows.prompt else "",
            request.image if shows.image else None,
            request.mask if shows.mask else None,
            seed=request.seed,
            guidance=Guidance(image=request.image_guidance, text=request.text_guidance),
            reference={key: picture for key, picture in request.references.items() if key in reads},
            given={key: value for key, value in request.choices.items() if value and key in taken},
        )
        return answer, f"{name}: {time.perf_counter() - began:.2f} s"

    def take_example(self, task: str) -> Offer:
        """The next of the shipped test examples, which are unselected; of two runs with the references of both."""
        source, number = EmojiSource(size=self.first.size), self._examples
        self._examples += 1
        made = [make_example(source, model.tasks[task], number) for model in self.models.values()]
        references: dict[str, Image.Image] = {}
        choices: dict[str, str] = {}
        for model, example in zip(self.models.values(), made, strict=True):
            found = {name: example.extra.get(REFERENCE + name) for name in list_references(model, task)}
            references |= {name: to_pil(picture) for name, picture in found.items() if picture is not None}
            numbers = {name: int(value) for name, value in example.extra.items() if value.ndim == 0}
            choices |= model.tasks[task].name_numbers(numbers)
        example = max(made, key=lambda one: len(one.extra))  # whose prompt leaves out what references show
        hole = example.mask[0].numpy() if 0 < float(example.mask.mean()) < 1 else None  # a task may have both kinds
        shown_whole = example.source if hole is None else example.target
        picture = to_pil(shown_whole) if self.first.takes[task].image else None
        strokes = None if hole is None else draw_strokes(hole)
        allowed = self.tasks[task].choices
        choices = {name: value for name, value in choices.items() if value in allowed.get(name, ())}
        return Offer(picture, strokes, example.prompt, references, choices)


def make_example(source: EmojiSource, task: Task, number: int) -> Example:
    data = Mixture.first_examples(source, [task], "test", EXAMPLES)
    return data[number % len(data)]


def label_runs(runs: Sequence[str | Sequence[str]]) -> list[str]:
    """What each run is called: the name of its folder, or its path where two have one name; a sum by all of its runs.

    Labels differ, since they name the runs.
    """
    parts = [[run] if isinstance(run, str) else run for run in runs]
    for name in (lambda run: Path(run).name or run, str):
        labels = [" + ".join(shown(name(run)) for run in part) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({k})" for k, label in enumerate(labels, 1)]


def list_references(model: Model, task: str) -> list[str]:
    """Names of the reference pictures that a run's task gives and its method reads."""
    reads = model.painter.denoiser.method.reads
    return [name for name in model.takes[task].references if REFERENCE + name in reads]


def list_choices(model: Model, task: str) -> Mapping[str, Sequence[str]]:
    """What may be said of a run's task besides, by name with the allowed values, where its method mixes modalities."""
    return model.takes[task].choices if model.painter.denoiser.method.mixes else {}


def read_inheritance(every: int) -> Inheritance | None:
    return None if every == 1 else Inheritance(**vars(Inherit(level="block", every=every)))


def draw_strokes(hole: "np.ndarray[Any, Any]") -> Image.Image:
    """A hole (H, W), 1 inside, as white strokes on a transparent layer."""
    pixels = np.full((*hole.shape, 4), 255, np.uint8)
    pixels[..., 3] = (hole >= 0.5) * 255
    return Image.fromarray(pixels, "RGBA")


def read_upload(path: str | Path, key: str = "picture") -> Image.Image:
    """An upload as RGB. ValueError in one line where it is no picture, too large, or damaged. key: what it is for."""
    try:
        return lay_on_white(load_picture(key, path))
    except ValueError as error:
        raise ValueError(str(error).replace(f"{key}={shown(path)}", f"{key}={shown(Path(path).name)}")) from None


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
