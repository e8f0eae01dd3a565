"""The demo's page: Gradio on this machine's own address alone, without sharing, counting or fonts from elsewhere."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mtdiff.files import shown

if TYPE_CHECKING:
    from mtdiff.commands.studio import Studio

SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
"""What Gradio and the libraries that it brings read when they are imported."""
ADDRESS = "127.0.0.1"
LARGEST = "50mb"  # of an upload
FONTS = ["system-ui", "sans-serif"]  # the visitor's own; Gradio's default ones come from the network
MOST_RUNS = 2
BRUSH = 12  # pixels of the picture
SLIDER = 100  # steps that the slider reaches
STYLE = ".answer img { width: 100%; max-height: 70vh; object-fit: contain; }"


def check_gradio() -> None:
    """ValueError in one line where Gradio is not installed; it takes seconds to import, so that waits."""
    if find_spec("gradio") is None:
        raise ValueError("the demo needs Gradio: pip install -e '.[demo]'")


def import_gradio() -> Any:
    """Gradio, told to be silent before it starts."""
    os.environ.update(SILENT)
    import gradio

    return gradio


def serve(studio: "Studio", port: int | None = None) -> None:
    """Serve the demo until Ctrl-C, on a free port where none is given."""
    gradio = import_gradio()
    theme = gradio.themes.Default(font=FONTS, font_mono=["monospace"])
    page = build_page(gradio, studio)
    _, address, _ = page.queue(max_size=8, default_concurrency_limit=1).launch(
        server_name=ADDRESS,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=LARGEST,
        enable_monitoring=False,
        ssr_mode=False,
        theme=theme,
        css=STYLE,
        footer_links=[],
    )
    print(f"demo: {address} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def build_page(gradio: Any, studio: "Studio") -> Any:
    """Controls on the left, a picture of each run on the right."""
    from mtdiff.commands.studio import read_upload

    tasks = list(studio.tasks)
    takes, scales = studio.tasks[tasks[0]], studio.guidance_of(tasks[0])  # shown at first; a choice shows what it takes
    with gradio.Blocks(title="mtdiff demo", analytics_enabled=False, delete_cache=(600, 600)) as page:
        gradio.Markdown(f"# Draw with {' and '.join(f'`{name}`' for name in studio.models)}")
        with gradio.Row():
            with gradio.Column():
                task = gradio.Dropdown(tasks, value=tasks[0], label="Task", elem_id="task")
                prompt = gradio.Textbox(label="Prompt", elem_id="prompt", visible=takes.prompt)
                upload = gradio.UploadButton("Upload a picture", elem_id="upload", visible=takes.image)
                example = gradio.Button("Take the next test example", elem_id="example")
                editor = build_editor(gradio, visible=takes.image)
                with gradio.Row():
                    seed = gradio.Number(0, label="Seed", precision=0, minimum=0, elem_id="seed")
                    steps = gradio.Slider(1, SLIDER, studio.first.painter.steps, step=1, label="Steps", elem_id="steps")
                    inherit = gradio.Slider(1, 5, 1, step=1, label="Inheritance: of so many steps one is whole")
                with gradio.Row():
                    bounds = {"minimum": 0, "maximum": 15, "step": 0.1}
                    image_scale = gradio.Slider(
                        value=scales.image, label="Guidance by the picture", visible=takes.image, **bounds
                    )
                    text_scale = gradio.Slider(
                        value=scales.text, label="Guidance by the prompt", visible=takes.prompt, **bounds
                    )
                draw = gradio.Button("Draw", variant="primary", elem_id="draw")
            with gradio.Column():
                pictures, times = build_answers(gradio, studio)
        controls = [task, prompt, editor, seed, steps, image_scale, text_scale, inherit]
        adapt = say_error(gradio, lambda name: show_task(gradio, studio, name))
        task.change(adapt, task, [prompt, upload, editor, image_scale, text_scale])
        upload.upload(say_error(gradio, lambda path: fill_editor(read_upload(path), None)), upload, editor)
        example.click(say_error(gradio, lambda name: take_example(studio, name)), task, [editor, prompt])
        answers = [part for pair in zip(pictures, times, strict=True) for part in pair]
        draw.click(say_error(gradio, lambda *values: answer(studio, *values)), controls, answers)
    return page


def build_editor(gradio: Any, *, visible: bool) -> Any:
    """A picture with a white brush. Files reach it through the upload alone, which reads them within bounds."""
    brush = gradio.Brush(default_size=BRUSH, colors=["#ffffff"], color_mode="fixed")
    label = "Picture; paint white what shall be drawn anew"
    return gradio.ImageEditor(
        type="pil", sources=(), brush=brush, layers=False, transforms=(), label=label, elem_id="editor", visible=visible
    )


def build_answers(gradio: Any, studio: "Studio") -> tuple[list[Any], list[Any]]:
    pictures, times = [], []
    options: dict[str, Any] = {"format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    with gradio.Row():
        for k, name in enumerate(studio.models):
            with gradio.Column(min_width=160):
                pictures.append(gradio.Image(label=name, elem_id=f"answer-{k}", elem_classes="answer", **options))
                times.append(gradio.Textbox(label="Time", interactive=False, elem_id=f"time-{k}"))
    return pictures, times


def say_error(gradio: Any, action: Callable[..., Any]) -> Callable[..., Any]:
    """The action; a mistake of the visitor's is one line in a corner of the page."""

    def act(*values: Any) -> Any:
        try:
            return action(*values)
        except ValueError as error:
            raise gradio.Error(shown(error, 300), print_exception=False) from None

    return act


def show_task(gradio: Any, studio: "Studio", task: str) -> list[Any]:
    """Controls that a task takes, and its own guidance."""
    takes, scales = studio.tasks[task], studio.guidance_of(task)
    shows = [takes.prompt, takes.image, takes.image]
    return [
        *(gradio.update(visible=visible) for visible in shows),
        gradio.update(value=scales.image, visible=takes.image),
        gradio.update(value=scales.text, visible=takes.prompt),
    ]


def fill_editor(picture: Any, strokes: Any) -> dict[str, Any]:
    return {"background": picture, "layers": [] if strokes is None else [strokes], "composite": None}


def take_example(studio: "Studio", task: str) -> tuple[Any, str]:
    picture, strokes, prompt = studio.take_example(task)
    return None if picture is None else fill_editor(picture, strokes), prompt


def answer(
    studio: "Studio",
    task: str,
    prompt: str,
    editor: dict[str, Any] | None,
    seed: int | None,
    steps: int,
    image_scale: float,
    text_scale: float,
    inherit: int,
) -> list[Any]:
    """Pictures and times of all runs, one after the other as the page shows them."""
    from mtdiff.commands.studio import Request, read_editor

    image, mask = read_editor(editor)
    request = Request(task, prompt, image, mask, int(seed or 0), int(steps), image_scale, text_scale, int(inherit))
    return [part for pair in studio.draw(request) for part in pair]
