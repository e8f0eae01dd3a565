"""A table of results as Markdown, HTML and LaTeX (booktabs): the same cells, marks and reasons in each."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mtdiff.results.escape import escape_html, escape_latex, escape_markdown
from mtdiff.results.table import Cell, Cost, Line, Table, find_power, keep_columns

ARROWS = {"lower": "↓", "higher": "↑"}
COSTS = ("trained", "parameters", "for all tasks", "FLOPs", "latency ms")
LEGEND = (
    "Mean with 95 % interval: over seeds (Student's t) where there are two or more, else over examples (bootstrap). "
    "Bold: best of the column. ≈: not significantly worse than the best at 5 % (paired over the same examples, noise "
    "and seeds where the results carry the scores, seeds and examples both taken as random; else by intervals taken as "
    "independent; not corrected for the number of comparisons). Below the rule: references that nothing was trained "
    "for, not ranked. trained, parameters, for all tasks: numbers of parameters that one training changed, that one "
    "call uses, and that serving all tasks of the comparison takes. FLOPs of one call of the denoiser: 2 per "
    "multiply-add, with attention."
)
STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#1a1a1a;background:#fff}"
    "table{border-collapse:collapse;border-top:2px solid;border-bottom:2px solid;margin:1em 0}"
    "th,td{padding:.3em .7em;text-align:right;font-weight:400;white-space:nowrap}"
    "th:first-child{text-align:left}th[colspan]{text-align:center}thead{border-bottom:1px solid}"
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


@dataclass(frozen=True)
class Aside:
    """A plain table that stands beside ours and is never mixed into it. First column left, the others right."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def number(x: float) -> str:
    """Three decimals at the size of a cosine; more below, fewer above, and never a line of digits."""
    if x != 0 and not 0.1 <= abs(x) < 1e6:
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


def list_notes(table: Table) -> list[str]:
    """What makes lines incomparable, and what ties could hide."""
    sizes = {f"{c.task} {c.metric}": find_power(table, c) for c in table.columns}
    found = ", ".join(f"{name} {number(size)}" for name, size in sizes.items() if size is not None)
    power = [f"Four of five such studies would find a difference from the best of: {found}."] if found else []
    return [*table.notes, *power]


# Markdown


def markdown_cell(cell: Cell, footnote: Footnotes) -> str:
    value, bounds = texts(cell)
    value = f"**{value}**" if cell.best else value
    missing = cell.reason or cell.note
    mark = f"[^{footnote(missing)}]" if missing else ""
    return " ".join(part for part in (value + mark, bounds) if part)


def markdown(table: Table, asides: Sequence[Aside] = ()) -> str:
    footnote = Footnotes()
    rows = markdown_table(table, footnote)
    parts = [rows, LEGEND, markdown_notes(table, footnote), *(_markdown_aside(aside) for aside in asides)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table, footnote: Footnotes) -> str:
    """The table alone; what its marks mean is left in `footnote`."""
    head = [
        "",
        *(f"{escape_markdown(c.task)}<br>{escape_markdown(c.metric)} {ARROWS[c.direction]}" for c in table.columns),
        "seeds",
        *COSTS,
    ]
    rows = [head, [":--", *["--:"] * (len(head) - 1)]]
    for before, line in zip([None, *table.lines], table.lines, strict=False):
        if line.reference and not (before and before.reference):
            rows.append(["*references*", *["―"] * (len(head) - 1)])
        cells = [markdown_cell(cell, footnote) for cell in line.cells]
        rows.append([escape_markdown(line.label), *cells, seeds(line), *costs(line.cost)])
    return _markdown_rows(rows)


def markdown_notes(table: Table, footnote: Footnotes) -> str:
    """What makes lines incomparable, what ties could hide, and what the marks mean."""
    notes = "\n".join(f"- {escape_markdown(note)}" for note in list_notes(table))
    reasons = "\n".join(f"[^{i}]: {escape_markdown(text)}" for i, text in enumerate(footnote.texts, 1))
    return "\n\n".join(part for part in (notes, reasons) if part)


def _markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _markdown_aside(aside: Aside) -> str:
    head, *rows = ([escape_markdown(cell) for cell in row] for row in [aside.head, *aside.rows])
    table = _markdown_rows([head, [":--", *["--:"] * (len(head) - 1)], *rows])
    notes = "\n".join(f"- {escape_markdown(note)}" for note in aside.notes)
    return f"## {escape_markdown(aside.title)}\n\n{table}\n\n{notes}".rstrip()


# HTML


def html_cell(cell: Cell, footnote: Footnotes) -> str:
    value, bounds = texts(cell)
    value = f"<b>{value}</b>" if cell.best else value
    missing = cell.reason or cell.note
    mark = f'<sup title="{escape_html(missing)}">{footnote(missing)}</sup>' if missing else ""
    title = f' title="{cell.n} examples, {cell.seeds} runs"' if cell.interval else ""
    return f"<td{title}>{value}{mark}" + (f"<br><small>{bounds}</small>" if bounds else "") + "</td>"


def html_head(table: Table, costs: bool) -> str:
    tasks = list(dict.fromkeys(c.task for c in table.columns))
    spans = [(escape_html(t), sum(c.task == t for c in table.columns)) for t in tasks]
    further = [("cost", len(COSTS))] * costs
    above = "".join(f'<th colspan="{n}">{t}</th>' for t, n in [("", 1), *spans, ("", 1), *further])
    names = [f"{escape_html(c.metric)} {ARROWS[c.direction]}" for c in table.columns]
    below = "".join(f"<th>{name}</th>" for name in ["", *names, "seeds", *(COSTS if costs else ())])
    return f"<thead><tr>{above}</tr>\n<tr>{below}</tr></thead>"


def html_line(line: Line, footnote: Footnotes, further: bool) -> str:
    cells = "".join(html_cell(cell, footnote) for cell in line.cells)
    rest = "".join(f"<td>{text}</td>" for text in [seeds(line), *(costs(line.cost) if further else ())])
    return f"<tr><th>{escape_html(line.label)}</th>{cells}{rest}</tr>"


def html_table(table: Table, footnote: Footnotes, further: bool = True) -> str:
    """further: with the columns of costs."""
    parts = [[line for line in table.lines if line.reference is apart] for apart in (False, True)]
    lines = ["\n".join(html_line(line, footnote, further) for line in part) for part in parts if part]
    bodies = "\n".join(f"<tbody>{part}</tbody>" for part in lines)
    return f"<table>{html_head(table, further)}\n{bodies}</table>"


def html_by_task(table: Table) -> str:
    """The same as `html_body` in narrow tables: one a task, without references that do not apply there; then costs."""
    footnote = Footnotes()
    parts = [
        keep_columns(table, [c for c in table.columns if c.task == task])
        for task in dict.fromkeys(column.task for column in table.columns)
    ]
    kept = [
        replace(part, lines=[line for line in part.lines if not line.reference or any(c.interval for c in line.cells)])
        for part in parts
    ]
    rows = [[line.label, *costs(line.cost)] for line in table.lines if not line.reference]
    tables = [*(html_table(part, footnote, False) for part in kept), html_aside(Aside("Costs", ["", *COSTS], rows))]
    return "\n".join([*tables, html_notes(table, footnote)])


def html_body(table: Table, asides: Sequence[Aside] = ()) -> str:
    """What stands in a page: the table, its legend, notes and reasons, and what stands beside it."""
    footnote = Footnotes()
    body = [html_table(table, footnote), html_notes(table, footnote), *(html_aside(aside) for aside in asides)]
    return "\n".join(part for part in body if part)


def html_notes(table: Table, footnote: Footnotes) -> str:
    notes = "".join(f"<li>{escape_html(note)}</li>" for note in list_notes(table))
    reasons = "".join(f"<li>{escape_html(text)}</li>" for text in footnote.texts)
    body = [
        f"<p>{escape_html(LEGEND)}</p>",
        f"<ul>{notes}</ul>" if notes else "",
        f"<ol>{reasons}</ol>" if reasons else "",
    ]
    return "\n".join(part for part in body if part)


def html_aside(aside: Aside) -> str:
    def row(tags: Sequence[str], cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{t}>{escape_html(c)}</{t}>" for t, c in zip(tags, cells, strict=True)) + "</tr>"

    heads, body = ["th"] * len(aside.head), ["th", *["td"] * (len(aside.head) - 1)]
    rows = "\n".join(row(body, cells) for cells in aside.rows)
    notes = "".join(f"<li>{escape_html(note)}</li>" for note in aside.notes)
    table = f"<table><thead>{row(heads, aside.head)}</thead>\n<tbody>{rows}</tbody></table>"
    return f"<h2>{escape_html(aside.title)}</h2>\n{table}\n" + (f"<ul>{notes}</ul>" if notes else "")


def html(table: Table, asides: Sequence[Aside] = ()) -> str:
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Results</title>'
    return f"{head}\n<style>{STYLE}</style></head>\n<body>\n{html_body(table, asides)}\n</body></html>\n"


# LaTeX


def latex_cell(cell: Cell, footnote: Footnotes) -> str:
    value, bounds = (escape_latex(text) for text in texts(cell))
    value = rf"\textbf{{{value}}}" if cell.best else value
    missing = cell.reason or cell.note
    mark = rf"\textsuperscript{{{footnote(missing)}}}" if missing else ""
    return value + mark + (rf" {{\scriptsize {bounds}}}" if bounds else "")


def latex(table: Table, asides: Sequence[Aside] = ()) -> str:
    """A `table` float that needs the packages booktabs and graphicx (for its width)."""
    footnote = Footnotes()
    tasks = list(dict.fromkeys(c.task for c in table.columns))
    spans = [sum(c.task == task for c in table.columns) for task in tasks]
    above = ["", *(rf"\multicolumn{{{n}}}{{c}}{{{escape_latex(t)}}}" for t, n in zip(tasks, spans, strict=True))]
    above += ["", rf"\multicolumn{{{len(COSTS)}}}{{c}}{{cost}}"]
    starts = [2 + sum(spans[:i]) for i in range(len(spans))]
    rules = [rf"\cmidrule(lr){{{a}-{a + n - 1}}}" for a, n in zip(starts, spans, strict=True)]
    names = ["", *(escape_latex(f"{c.metric} {ARROWS[c.direction]}") for c in table.columns), "seeds", *COSTS]
    rows: list[list[str] | str] = [above, " ".join(rules), names, r"\midrule"]
    for before, line in zip([None, *table.lines], table.lines, strict=False):
        if before is not None and line.reference and not before.reference:
            rows.append(r"\midrule")
        cells = [latex_cell(cell, footnote) for cell in line.cells]
        rows.append([escape_latex(line.label), *cells, escape_latex(seeds(line)), *costs(line.cost)])
    marks = (rf"\textsuperscript{{{i}}} {escape_latex(text)}" for i, text in enumerate(footnote.texts, 1))
    reasons = " ".join(map(end_sentence, marks))
    caption = " ".join(
        part for part in (escape_latex(LEGEND), *(escape_latex(note) for note in list_notes(table)), reasons) if part
    )
    parts = [_latex_float(rows, len(names), caption)]
    for aside in asides:
        body: list[list[str] | str] = [[escape_latex(h) for h in aside.head], r"\midrule"]
        body += [[escape_latex(cell) for cell in row] for row in aside.rows]
        below = " ".join(map(end_sentence, [aside.title, *aside.notes]))
        parts.append(_latex_float(body, len(aside.head), escape_latex(below)))
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(parts)


def end_sentence(text: str) -> str:
    """With one full stop at its end."""
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _latex_float(rows: Sequence[list[str] | str], width: int, caption: str) -> str:
    lines = "\n".join(row if isinstance(row, str) else " & ".join(row) + r" \\" for row in rows)
    columns = f"l{'r' * (width - 1)}"
    return (
        "\\begin{table}\n\\centering\n\\resizebox{\\linewidth}{!}{%\n"
        f"\\begin{{tabular}}{{{columns}}}\n\\toprule\n{lines}\n\\bottomrule\n\\end{{tabular}}}}\n"
        f"\\caption{{{caption}}}\n\\end{{table}}\n"
    )
