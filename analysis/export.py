"""Run the notebooks and write one self-contained HTML page for each.

python analysis/export.py [results='runs/*/result.json'] [out=report] [only=comparison,pictures] [figures=folder]
                          [ways=frontier.json] [budgets=budgets.json]

results: a glob pattern, or several with commas between; left out, the committed results. figures: each figure as PDF.
ways, budgets: what experiments/studies/frontier.py and budgets.py wrote; left out, what belongs to the results.
"""

import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtdiff.commands.arguments import override_defaults
from mtdiff.commands.command import run_command

HERE = Path(__file__).resolve().parent
DEFAULTS = {"results": "", "out": "report", "only": "", "figures": "", "ways": "", "budgets": ""}
FILES = {"figures": "MTDIFF_FIGURES", "ways": "MTDIFF_WAYS", "budgets": "MTDIFF_BUDGETS"}
TIMEOUT = 600  # seconds for a cell
FENCE = "%reset -f"  # stands between notebooks, which share a kernel but no variable
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><link rel="icon" href="data:,">
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em }}
body {{ color: #1a1a1a; background: #fff }}
nav {{ font-size: 13px; margin-bottom: 2em; display: flex; flex-wrap: wrap; gap: 0 1em }}
h1 {{ font-size: 1.6em }} h2 {{ font-size: 1.2em; margin-top: 2em }} a.anchor-link {{ display: none }}
pre {{ white-space: pre-wrap; font-size: 13px }}
</style></head>
<body><nav>{links}</nav>
{body}
</body></html>
"""


def notebooks(only: str = "") -> dict[str, Path]:
    """By name, in their order."""
    every = {path.stem.partition("_")[2]: path for path in sorted(HERE.glob("*.ipynb"))}
    chosen = only.split(",") if only else list(every)
    for name in chosen:
        if name not in every:
            raise ValueError(f"only={name}: expected some of {', '.join(every)}")
    return {name: every[name] for name in chosen}


def absolute(patterns: str) -> str:
    """Patterns as the notebooks read them, whose folder is another."""
    return ",".join(os.path.abspath(pattern) for pattern in patterns.split(","))


def execute(chosen: dict[str, Path], environment: dict[str, str]) -> dict[str, Any]:
    """Run all cells of all notebooks in one kernel, which takes a fraction of the time of a kernel for each."""
    import nbformat
    from nbclient import NotebookClient

    read = {name: nbformat.read(path, as_version=4) for name, path in chosen.items()}
    cells = [cell for nb in read.values() for cell in [*nb.cells, nbformat.v4.new_code_cell(FENCE)]]
    whole = nbformat.v4.new_notebook(cells=cells, metadata=next(iter(read.values())).metadata)
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        place = {"metadata": {"path": str(HERE)}}
        NotebookClient(whole, timeout=TIMEOUT, startup_timeout=TIMEOUT, resources=place).execute()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return read


def page(name: str, notebook: Any, names: Sequence[str]) -> str:
    """Without code. nbconvert's `basic` template is a bare fragment, so the page asks for nothing from elsewhere."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="basic", exclude_input=True, exclude_input_prompt=True)
    exporter.exclude_output_prompt = True
    body, _ = exporter.from_notebook_node(notebook)
    title = notebook.cells[0].source.splitlines()[0].lstrip("# ")
    links = "".join(f"<b>{n}</b> " if n == name else f'<a href="{n}.html">{n}</a>' for n in names)
    return PAGE.format(title=escape(title), links=links, body=body)


def export(options: dict[str, str]) -> Iterator[Path]:
    from mtdiff.files.writing import write_atomically

    chosen = notebooks(options["only"])
    environment = {"MTDIFF_RESULTS": absolute(options["results"]) if options["results"] else ""}
    environment |= {name: os.path.abspath(options[key]) for key, name in FILES.items() if options[key]}
    for name, notebook in execute(chosen, environment).items():
        path = Path(options["out"]) / f"{name}.html"
        write_atomically(path, page(name, notebook, list(chosen)))
        yield path


def main(arguments: list[str]) -> None:
    for path in export(override_defaults(arguments, DEFAULTS)):
        print(path)


if __name__ == "__main__":
    run_command(main, __doc__, prefix="export.py")
