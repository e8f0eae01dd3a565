"""One table of many runs, as Markdown and as a self-contained HTML page.

python experiments/table.py results='runs/*/result.json' out=table      writes table.md and table.html

results: a glob pattern, or several with commas between. out: the files' path without its ending.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from mtdiff.results import collect, write_atomically
from mtdiff.summary import Cell, Cost, Line, Table, summarise

DEFAULTS = {"results": "runs/*/result.json", "out": "table"}
ARROWS = {"lower": "↓", "higher": "↑"}
COSTS = ("trained", "parameters", "for all tasks", "FLOPs", "latency ms")
LEGEND = (
    "Mean with 95 % interval: over seeds (Student's t) where there are two or more, else over examples (bootstrap). "
    "Bold: best of the column. ≈: not significantly worse than the best (intervals taken as independent, "
    "so the mark is generous). Below the rule: references that nothing was trained for, not ranked. "
    "trained, parameters, for all tasks: numbers of parameters that one training changed, that one call uses, and that "
    "serving all tasks of the comparison takes. FLOPs of one call of the denoiser: 2 per multiply-add, with attention."
)
STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#1a1a1a;background:#fff}"
    "table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid}"
    "th,td{padding:.3em .7em;text-align:right;font-weight:400;white-space:nowrap}"
    "th:first-child{text-align:left}thead{border-bottom:1px solid}"
    "tbody+tbody{border-top:1px solid #888;color:#555}small{color:#666}"
    "p,li{max-width:60em}b{font-weight:700}"
)


@dataclass
class Footnotes:
    """Numbers texts in the order of their first use."""

    texts: list[str] = field(default_factory=list)

    def __call__(self, text: str) -> int:
        if text not in self.texts:
            self.texts.append(text)
        return self.texts.index(text) + 1


def number(x: float) -> str:
    """Three decimals at the size of a cosine; more below, fewer above."""
    if x != 0 and abs(x) < 0.1:
        return f"{x:.3g}"
    return f"{x:.3f}" if abs(x) < 10 else f"{x:.2f}"


def large(x: float | None) -> str:
    """12345678 -> 12.3M; nothing for a missing number."""
    if x is None:
        return ""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(x) >= size:
            return f"{x / size:.3g}{unit}" if abs(x) < 999.5 * size else f"{x / size:.0f}{unit}"
    return f"{x:.0f}"


def costs(cost: Cost) -> list[str]:
    latency = "" if cost.latency_ms is None else f"{cost.latency_ms:.3g}"
    return [large(cost.trainable), large(cost.total), large(cost.total_for_all_tasks), large(cost.flops), latency]


def seeds(line: Line) -> str:
    """How many runs stand behind each cell, as a range where cells differ."""
    counts = {cell.seeds for cell in line.cells if cell.interval is not None}
    return "–".join(str(c) for c in dict.fromkeys([min(counts), max(counts)])) if counts else "0"


def texts(cell: Cell) -> tuple[str, str]:
    """The value with its marks, and the interval; empty where they are missing."""
    if cell.interval is None:
        return "", ""
    i = cell.interval
    bounds = "" if i.low is None or i.high is None else f"[{number(i.low)}, {number(i.high)}]"
    return number(i.value) + (" ≈" if cell.tied else ""), bounds


# Markdown


def plain(text: str) -> str:
    """Safe inside a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")


def markdown_cell(cell: Cell, footnote: Footnotes) -> str:
    value, bounds = texts(cell)
    value = f"**{value}**" if cell.best else value
    missing = cell.reason or cell.note
    mark = f"[^{footnote(missing)}]" if missing else ""
    return " ".join(part for part in (value + mark, bounds) if part)


def markdown(table: Table) -> str:
    footnote = Footnotes()
    head = [
        "",
        *(f"{plain(c.task)}<br>{plain(c.metric)} {ARROWS[c.direction]}" for c in table.columns),
        "seeds",
        *COSTS,
    ]
    rows = [head, [":--", *["--:"] * (len(head) - 1)]]
    for before, line in zip([None, *table.lines], table.lines, strict=False):
        if line.reference and not (before and before.reference):
            rows.append(["*references*", *["―"] * (len(head) - 1)])
        cells = [markdown_cell(cell, footnote) for cell in line.cells]
        rows.append([plain(line.label), *cells, seeds(line), *costs(line.cost)])
    body = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    notes = "\n".join(f"- {plain(note)}" for note in table.notes)
    reasons = "\n".join(f"[^{i}]: {plain(text)}" for i, text in enumerate(footnote.texts, 1))
    return "\n\n".join(part for part in (body, LEGEND, notes, reasons) if part) + "\n"


# HTML


def html_cell(cell: Cell, footnote: Footnotes) -> str:
    value, bounds = texts(cell)
    value = f"<b>{value}</b>" if cell.best else value
    missing = cell.reason or cell.note
    mark = f'<sup title="{escape(missing)}">{footnote(missing)}</sup>' if missing else ""
    title = f' title="{cell.n} examples, {cell.seeds} runs"' if cell.interval else ""
    return f"<td{title}>{value}{mark}" + (f"<br><small>{bounds}</small>" if bounds else "") + "</td>"


def html_head(table: Table) -> str:
    tasks = list(dict.fromkeys(c.task for c in table.columns))
    spans = [(escape(t), sum(c.task == t for c in table.columns)) for t in tasks]
    above = "".join(f'<th colspan="{n}">{t}</th>' for t, n in [("", 1), *spans, ("", 1), ("cost", len(COSTS))])
    names = [f"{escape(c.metric)} {ARROWS[c.direction]}" for c in table.columns]
    below = "".join(f"<th>{name}</th>" for name in ["", *names, "seeds", *COSTS])
    return f"<thead><tr>{above}</tr>\n<tr>{below}</tr></thead>"


def html_line(line: Line, footnote: Footnotes) -> str:
    cells = "".join(html_cell(cell, footnote) for cell in line.cells)
    rest = "".join(f"<td>{text}</td>" for text in [seeds(line), *costs(line.cost)])
    return f"<tr><th>{escape(line.label)}</th>{cells}{rest}</tr>"


def html(table: Table) -> str:
    footnote = Footnotes()
    parts = [[line for line in table.lines if line.reference is apart] for apart in (False, True)]
    bodies = ["<tbody>" + "\n".join(html_line(line, footnote) for line in part) + "</tbody>" for part in parts if part]
    notes = "".join(f"<li>{escape(note)}</li>" for note in table.notes)
    reasons = "".join(f"<li>{escape(text)}</li>" for text in footnote.texts)
    page = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Results</title>',
        f"<style>{STYLE}</style>",
        f"<table>{html_head(table)}\n" + "\n".join(bodies) + "</table>",
        f"<p>{escape(LEGEND)}</p>",
        f"<ul>{notes}</ul>" if notes else "",
        f"<ol>{reasons}</ol>" if reasons else "",
    ]
    return "\n".join(part for part in page if part) + "\n</html>\n"


# Command line


def parse(arguments: list[str]) -> dict[str, str]:
    """key=value arguments over the defaults."""
    options = dict(DEFAULTS)
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in options or not value:
            expected = " ".join(f"{k}=..." for k in options)
            raise ValueError(f"argument {argument!r}: expected {expected}")
        options[key] = value
    return options


def write(options: dict[str, str]) -> Iterator[Path]:
    """Read all results, write both files and yield their paths."""
    results = [result for pattern in options["results"].split(",") for result in collect(pattern)]
    if not results:
        raise ValueError(f"results={options['results']}: no such file")
    table = summarise(results)
    writers: dict[str, Callable[[Table], str]] = {"md": markdown, "html": html}
    for ending, render in writers.items():
        path = Path(f"{options['out']}.{ending}")
        write_atomically(path, render(table))
        yield path


def main(arguments: list[str]) -> int:
    if {"-h", "--help"} & set(arguments):
        print(__doc__.strip())
        return 0
    try:
        for path in write(parse(arguments)):
            print(path)
    except (ValueError, OSError) as error:
        print(f"table.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
