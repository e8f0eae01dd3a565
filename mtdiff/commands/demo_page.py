"""The demo's page: its controls, what a choice of task shows of them, and what a press of a button does.

What tasks and methods take comes from the studio; no control knows a name of theirs.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mtdiff.errors import shown

if TYPE_CHECKING:
    from mtdiff.commands.studio import Controls, Studio
    from mtdiff.model.sampling import Guidance
    from mtdiff.runs.model import Answer

BRUSH = 12  # pixels of the picture
SLIDER = 100  # steps that the slider reaches
THUMB = 140  # pixels of a reference on the page


def build_page(gradio: Any, studio: "Studio") -> Any:
    """Controls on the left, what each run answers on the right."""
    from mtdiff.commands.studio import read_upload

    tasks = list(studio.tasks)
    shows, scales = studio.tasks[tasks[0]], studio.guidance_of(tasks[0])  # at first; a choice shows what it takes
    with gradio.Blocks(title="mtdiff demo", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gradio.Markdown(f"# Draw with {' and '.join(f'`{name}`' for name in studio.models)}")
        with gradio.Row():
            with gradio.Column():
                task = gradio.Dropdown(tasks, value=tasks[0], label="Task", elem_id="task")
                prompt = gradio.Textbox(label="Prompt", elem_id="prompt", visible=shows.prompt)
                choices = build_choices(gradio, studio, shows)
                upload = gradio.UploadButton("Upload a picture", elem_id="upload", visible=shows.image)
                example = gradio.Button("Take the next test example", elem_id="example")
                editor = build_editor(gradio, shows)
                boxes, pictures = build_references(gradio, studio, shows)
                with gradio.Row():
                    seed = gradio.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                    steps = gradio.Slider(1, SLIDER, studio.first.painter.steps, step=1, label="Steps", elem_id="steps")
                    inherit = gradio.Slider(1, 5, 1, step=1, label="Inheritance: of so many steps one is whole")
                image_scale, text_scale = build_scales(gradio, shows, scales)
                draw = gradio.Button("Draw", variant="primary", elem_id="draw")
            with gradio.Column():
                answers = build_answers(gradio, studio)
        fixed = [task, prompt, editor, seed, steps, image_scale, text_scale, inherit]
        adapt = say_error(gradio, lambda name: show_task(gradio, studio, name))
        task.change(adapt, task, [prompt, upload, editor, image_scale, text_scale, *choices, *boxes])
        upload.upload(say_error(gradio, lambda path: fill_editor(read_upload(path), None)), upload, editor)
        example.click(
            say_error(gradio, lambda name: take_example(studio, name)), task, [editor, prompt, *choices, *pictures]
        )
        act = say_error(gradio, lambda *values: answer(gradio, studio, *values))
        draw.click(act, [*fixed, *choices, *pictures], answers)
    return page


def build_choices(gradio: Any, studio: "Studio", shows: "Controls") -> list[Any]:
    """A list of values for each name that some task asks for; the first value leaves it open."""
    made = []
    for name in studio.choices:
        values = shows.choices.get(name, ())
        options: dict[str, Any] = {"elem_id": f"choice-{name}", "visible": bool(values)}
        made.append(gradio.Dropdown(list_values(values), value="", label=name.capitalize(), **options))
    return made


def list_values(values: Sequence[str]) -> list[tuple[str, str]]:
    return [("left open", ""), *((shown(value), value) for value in values)]


def build_editor(gradio: Any, shows: "Controls") -> Any:
    """A picture with a white brush. Files reach it through the upload alone, which reads them within bounds."""
    options: dict[str, Any] = {"label": name_editor(shows), "elem_id": "editor", "visible": shows.image}
    brush = gradio.Brush(default_size=BRUSH, colors=["#ffffff"], color_mode="fixed")
    lossless: dict[str, Any] = {"type": "pil", "format": "png"}  # what is known around a hole is kept to the byte
    return gradio.ImageEditor(sources=(), brush=brush, layers=False, transforms=(), **lossless, **options)


def name_editor(shows: "Controls") -> str:
    return "Picture; paint white what shall be drawn anew" if shows.mask else "Picture"


def build_references(gradio: Any, studio: "Studio", shows: "Controls") -> tuple[list[Any], list[Any]]:
    """A box with an upload and a picture for each reference that some task takes; the boxes, and the pictures."""
    boxes, pictures = [], []
    for name in studio.references:
        with gradio.Column(visible=name in shows.references, elem_id=f"reference-{name}") as box:
            picture = gradio.Image(
                type="pil",
                format="png",
                height=THUMB,
                interactive=False,
                buttons=[],
                label=name_reference(studio, name),
            )
            with gradio.Row():
                upload = gradio.UploadButton(f"Upload a reference: {name}")
                gradio.ClearButton([picture], value=f"Leave out: {name}")
        upload.upload(say_error(gradio, partial(read_reference, name)), upload, picture)
        boxes.append(box)
        pictures.append(picture)
    return boxes, pictures


def name_reference(studio: "Studio", name: str) -> str:
    """`Reference: style`, and whose it is where one of two runs alone reads it."""
    runs = {run for shows in studio.tasks.values() for run in shows.references.get(name, ())}
    return f"Reference: {name}" + ("" if len(runs) == len(studio.models) else f" (read by {', '.join(runs)})")


def read_reference(name: str, path: str) -> Any:
    from mtdiff.commands.studio import read_upload

    return read_upload(path, f"reference.{name}")


def build_scales(gradio: Any, shows: "Controls", scales: "Guidance") -> tuple[Any, Any]:
    """Sliders of the guidance by picture and by prompt."""
    bounds = {"minimum": 0, "maximum": 15, "step": 0.1}
    with gradio.Row():
        image = gradio.Slider(value=scales.image, label="Guidance by the picture", visible=shows.image, **bounds)
        text = gradio.Slider(value=scales.text, label="Guidance by the prompt", visible=shows.prompt, **bounds)
    return image, text


def build_answers(gradio: Any, studio: "Studio") -> list[Any]:
    """Of each run its picture, the time, and what it may draw or say beside: shown where there is some."""
    made: list[Any] = []
    options: dict[str, Any] = {"format": "png", "interactive": False}
    image: dict[str, Any] = {**options, "elem_classes": "answer", "buttons": ["download", "fullscreen"]}
    with gradio.Row():
        for k, name in enumerate(studio.models):
            with gradio.Column(min_width=160):
                made.append(gradio.Image(label=name, elem_id=f"answer-{k}", **image))
                made.append(gradio.Textbox(label="Time", interactive=False, elem_id=f"time-{k}"))
                made.append(gradio.Gallery(label="Drawn beside it", elem_id=f"beside-{k}", visible=False, **options))
                said: dict[str, Any] = {"label": "Said of it", "elem_id": f"said-{k}"}
                made.append(gradio.Textbox(interactive=False, visible=False, **said))
    return made


def say_error(gradio: Any, action: Callable[..., Any]) -> Callable[..., Any]:
    """The action; a mistake of the visitor's is one line in a corner of the page."""

    def act(*values: Any) -> Any:
        try:
            return action(*values)
        except ValueError as error:
            raise gradio.Error(shown(error, 300), print_exception=False) from None

    return act


def show_task(gradio: Any, studio: "Studio", task: str) -> list[Any]:
    """Controls that a task takes, its own values of choices and its own guidance."""
    shows, scales = studio.tasks[task], studio.guidance_of(task)
    values = [shows.choices.get(name, ()) for name in studio.choices]
    return [
        gradio.update(visible=shows.prompt),
        gradio.update(visible=shows.image),
        gradio.update(visible=shows.image, label=name_editor(shows)),
        gradio.update(value=scales.image, visible=shows.image),
        gradio.update(value=scales.text, visible=shows.prompt),
        *(gradio.update(choices=list_values(v), value="", visible=bool(v)) for v in values),
        *(gradio.update(visible=name in shows.references) for name in studio.references),
    ]


def fill_editor(picture: Any, strokes: Any) -> dict[str, Any]:
    return {"background": picture, "layers": [] if strokes is None else [strokes], "composite": None}


def take_example(studio: "Studio", task: str) -> list[Any]:
    """Editor, prompt, choices and references of a test example."""
    offer = studio.take_example(task)
    editor = None if offer.picture is None else fill_editor(offer.picture, offer.strokes)
    choices = [offer.choices.get(name, "") for name in studio.choices]
    return [editor, offer.prompt, *choices, *(offer.references.get(name) for name in studio.references)]


def answer(gradio: Any, studio: "Studio", *values: Any) -> list[Any]:
    """What the answers of all runs show, one after the other as in `build_answers`.

    values: of the controls in their order: those of every task, choices, references.
    """
    from mtdiff.commands.studio import Request, read_editor

    task, prompt, editor, seed, steps, image_scale, text_scale, inherit, *rest = values
    choices = dict(zip(studio.choices, rest, strict=False))
    pictures = dict(zip(studio.references, rest[len(choices) :], strict=True))
    image, mask = read_editor(editor)
    request = Request(
        *(task, prompt, image, mask, int(seed or 0), int(steps), image_scale, text_scale, int(inherit)),
        references={name: picture for name, picture in pictures.items() if picture is not None},
        choices={name: value or "" for name, value in choices.items()},
    )
    return [part for one, seconds in studio.draw(request) for part in show_answer(gradio, one, seconds)]


def show_answer(gradio: Any, answer: "Answer", seconds: str) -> list[Any]:
    others = [(picture, name) for name, picture in answer.others.items()]
    said = "\n".join(f"{name}: {word}" for name, word in answer.said.items())
    return [
        answer.picture,
        seconds,
        gradio.update(value=others, visible=bool(others)),
        gradio.update(value=said, visible=bool(said)),
    ]
