"""What all figures share: colours, panels, points with intervals, and how they are shown.

Figures are inline SVG. With MTDIFF_FIGURES=<folder> each is also written there as `<name>.pdf`.
"""

import base64
import io
import os
import re
import zlib
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from IPython.display import HTML, display
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mtdiff.results.intervals import Interval
from mtdiff.results.render import ARROWS
from mtdiff.results.table import Column, Line

COLOURS = {  # Okabe & Ito: told apart by everyone
    "mtu": "#d55e00",
    "finetune": "#0072b2",
    "lora_ffn": "#009e73",
    "ia3": "#cc79a7",
    "dtr": "#e69f00",
    "one_pic": "#56b4e9",
}
LETTERS = re.compile(r"[^\w+-]", re.ASCII)  # what no file's name has: a method may be called anything
OTHERS = ("#000000", "#7f7f7f", "#8c564b", "#9467bd", "#bcbd22")
mpl.rcParams |= {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "mtdiff",
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a `$` in a name is a letter
}


def say(text: str) -> None:
    display(HTML(f"<p>{escape(text)}</p>"))


def show_figure(figure: Figure, name: str, description: str) -> None:
    folder = os.environ.get("MTDIFF_FIGURES")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        figure.savefig(Path(folder) / f"{LETTERS.sub('_', name)[:100]}.pdf")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    style = f"width:{figure.get_figwidth():.1f}in;max-width:100%"
    display(HTML(f'<img style="{style}" alt="{escape(description)}" src="data:image/svg+xml;base64,{data}">'))


def colour_method(method: str) -> str:
    """The same for a method in every figure, also for one that is not ours."""
    return COLOURS.get(method) or OTHERS[zlib.crc32(method.encode()) % len(OTHERS)]


def name_method(line: Line) -> str:
    return line.label.split(" (")[0]


def title_column(column: Column) -> str:
    return f"{column.task}\n{column.metric.replace('_similarity_', '_sim._')} {ARROWS[column.direction]}"


def make_panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, Any]:
    """A figure, and its panels (rows, columns) of a size in inches."""
    figure = Figure(figsize=(width * columns, height * rows))
    return figure, figure.subplots(rows, columns, squeeze=False)


def leave_blank(axes: Axes, text: str) -> None:
    """A panel without data says why."""
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes, color="#666", wrap=True, fontsize=8)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)


def error_bars(x: float, interval: Interval) -> list[list[float]] | None:
    """What matplotlib calls the errors of a point; None without bounds."""
    if interval.low is None or interval.high is None:
        return None
    return [[max(0.0, interval.value - interval.low)], [max(0.0, interval.high - interval.value)]]


def draw_point(axes: Axes, x: float, interval: Interval, upright: bool, **style: Any) -> None:
    """A value with its interval, which lies along y where `upright`."""
    error = error_bars(x, interval)
    style = {"marker": "o", "ms": 5, "capsize": 2, "lw": 1, **style}
    if upright:
        axes.errorbar([x], [interval.value], yerr=error, **style)
    else:
        axes.errorbar([interval.value], [x], xerr=error, **style)


def style_line(line: Line) -> dict[str, Any]:
    """A method's colour; hollow for single-task models, grey for references."""
    shade = "#888888" if line.reference else colour_method(name_method(line))
    hollow = "single task" in line.label
    return {"color": shade, "mfc": "white" if hollow else shade, "marker": "|" if line.reference else "o"}
