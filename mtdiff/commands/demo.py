"""The demo: Gradio on this machine's own address alone, without sharing, counting or fonts from elsewhere."""

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mtdiff.commands.arguments import list_folders, list_numbers
from mtdiff.errors import shown

if TYPE_CHECKING:
    from mtdiff.commands.studio import Studio

SILENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
"""What Gradio and the libraries that it brings read when they are imported."""
ADDRESS = "127.0.0.1"
LARGEST = "50mb"  # of an upload
FONTS = ["system-ui", "sans-serif"]  # the visitor's own; Gradio's default ones come from the network
MOST_RUNS = 2
STYLE = ".answer img { width: 100%; min-height: 18rem; max-height: 70vh; object-fit: contain; }"


def check_gradio() -> None:
    """ValueError in one line where Gradio is not installed; it takes seconds to import, so that waits."""
    if find_spec("gradio") is None:
        raise ValueError("the demo needs Gradio: pip install -e '.[demo]'")


def read_runs(named: Sequence[str], given: Mapping[str, str]) -> tuple[list[str | list[str]], list[float] | None]:
    """The runs of a command, the sum of `adapter=[...]` as a list in its last place, and the weights of that sum."""
    from mtdiff.commands.pictures import is_sum

    runs: list[str | list[str]] = list(named)
    if "adapter" in given:
        if not is_sum(given):
            raise ValueError(f"adapter={shown(given['adapter'])}: expected runs that add up, as [runs/a,runs/b]")
        runs.append(list_folders(given, "adapter"))
    elif "weights" in given:
        raise ValueError(f"weights={shown(given['weights'])}: expected none beside run=, but adapter=[...]")
    if len(runs) > MOST_RUNS:
        also = ", and adapter once" if "adapter" in given else ""
        raise ValueError(f"run: given {len(named)} times{also}, expected 1 or {MOST_RUNS} in all")
    return runs, list_numbers(given, "weights")


def import_gradio() -> Any:
    """Gradio, told to be silent before it starts."""
    os.environ.update(SILENT)
    import gradio

    return gradio


def serve(studio: "Studio", port: int | None = None) -> None:
    """Serve the demo until Ctrl-C, on a free port where none is given."""
    page, address = launch(studio, port)
    print(f"demo: {address} (Ctrl-C ends it)", flush=True)
    page.block_thread()


def launch(studio: "Studio", port: int | None = None) -> tuple[Any, str]:
    """Serve the demo in a thread of its own: the page, whose `close` ends it, and its address."""
    from mtdiff.commands.demo_page import build_page

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
    return page, address
