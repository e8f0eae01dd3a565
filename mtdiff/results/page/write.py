"""The report page as one file: template, style, scripts, libraries and content put together."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mtdiff.files.writing import write_atomically
from mtdiff.results.escape import escape_html, escape_script
from mtdiff.results.find import Found
from mtdiff.results.page.content import describe_results
from mtdiff.results.page.libraries import Library, load_libraries
from mtdiff.results.page.strips import Store

ASSETS = Path(__file__).parents[2] / "assets" / "report"
SCRIPTS = ("page.js", "table.js", "charts.js", "wall.js", "main.js")


def locate_page(out: str) -> Path:
    """The page's own path: `out`, with the ending .html where it has none."""
    return Path(out if out.endswith((".html", ".htm")) else f"{out}.html")


def write_report(found: Sequence[Found], out: Path, *, inline: bool = False) -> Path:
    """Write a page over results, and return its path.

    inline: pictures lie inside of it, else in `<name>_pictures/` beside it. ValueError in one line where no result can
    be read, `NotInstalled` where a package that carries a library is missing.
    """
    libraries = load_libraries()
    name = f"{out.stem}_pictures"
    content = describe_results(found, Store(None if inline else out.parent / name, name))
    write_atomically(out, build_page(content, libraries))
    return out


def build_page(content: Mapping[str, Any], libraries: Iterable[Library]) -> str:
    libraries = list(libraries)
    ours = Library("What the bundles hold", "", "", (ASSETS / "licences.txt").read_text(encoding="utf-8"))
    own = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    parts = {
        "style": "\n".join([*(library.style for library in libraries), (ASSETS / "style.css").read_text("utf-8")]),
        "libraries": "\n".join(wrap_module(library.script) for library in libraries),
        "content": escape_script(content),
        "script": wrap_module(own),
        "licences": "\n".join(map(wrap_licence, [ours, *libraries])),
    }
    template = (ASSETS / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def wrap_module(script: str) -> str:
    """An inline module; inside of a script's texts, `<\\/script` is the same as what would end the element."""
    safe = re.sub(r"</(?=script)", r"<\\/", script, flags=re.I).replace("<!--", r"<\!--")
    return f'<script type="module">{safe}</script>'


def wrap_licence(library: Library) -> str:
    return f"<h3>{escape_html(library.name)}</h3><pre>{escape_lines(library.licence)}</pre>"


def escape_lines(text: str) -> str:
    return "\n".join(escape_html(line) for line in text.splitlines())
