"""JavaScript of well-kept libraries, taken out of installed Python packages, each with its licence.

Vega, Vega-Lite and Vega-Embed come out of `vl-convert-python`; DataTables and jQuery out of `itables`. Neither package
is imported by anything else here, and the page that carries them asks for nothing from elsewhere.
"""

import re
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

from mtdiff.errors import reason
from mtdiff.files.reading import read_text
from mtdiff.files.writing import find_user_cache, write_atomically

PACKAGES = ("vl-convert-python", "itables")
MISSING = "the page's plots and tables come out of two packages: pip install -e '.[analysis]'"
LARGEST = 4_000_000  # bytes of one library; each has less than a million


class NotInstalled(ValueError):
    """A package that carries a library is missing; the message says what to install."""


@dataclass(frozen=True)
class Library:
    """script: of an inline module, which leaves what the page calls in `window`. licence: its text."""

    name: str
    script: str
    style: str
    licence: str


def load_libraries() -> list[Library]:
    """Vega and DataTables. NotInstalled in one line where a package is missing."""
    try:
        return [load_vega(), load_tables()]
    except ImportError:  # also of `importlib.metadata`, for a package without its metadata
        raise NotInstalled(MISSING) from None


def load_vega() -> Library:
    """`window.vegaEmbed`. The bundle takes seconds to make, so it is kept in the user's cache for each version."""
    import vl_convert

    package = distribution("vl-convert-python")
    kept = find_user_cache() / f"vega-{package.version}.js"
    try:
        script = read_text(kept, "JavaScript", LARGEST)
    except ValueError:
        script = vl_convert.javascript_bundle()  # type: ignore[call-arg]
        keep_bundle(kept, script)
    version = vl_convert.get_vega_version()
    return Library(f"Vega {version}", script, "", read_licence("vl-convert-python"))


def keep_bundle(path: Path, script: str) -> None:
    """What cannot be kept is made again the next time."""
    try:
        write_atomically(path, script)
    except OSError as error:
        print(f"report: {path} cannot be kept ({reason(error)})")


def load_tables() -> Library:
    """`window.DataTable`: the package's module, whose default export is given that name."""
    import itables

    folder = Path(itables.__file__).parent / "html"
    bundle = read_text(folder / "dt_bundle.js", "JavaScript", LARGEST)
    exports = re.search(r"export\s*\{[^}]*?([\w$]+) as default[^}]*\}", bundle)
    if exports is None:
        raise ValueError(f"{folder / 'dt_bundle.js'}: exports no table; expected itables 2.3 to 2.x")
    script = bundle.replace(exports[0], f"window.DataTable={exports[1]}")
    style = read_text(folder / "dt_bundle.css", "CSS", LARGEST)
    return Library(f"DataTables (itables {itables.__version__})", script, style, read_licence("itables"))


def read_licence(package: str) -> str:
    """The licence that a package carries. The bundles' own notices stay in their scripts."""
    files = [file for file in distribution(package).files or [] if file.name.startswith("LICENSE")]
    return "\n\n".join(file.read_text(encoding="utf-8") for file in files)
