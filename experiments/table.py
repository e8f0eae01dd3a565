"""One table of many runs, as Markdown, as a self-contained HTML page and as LaTeX (booktabs).

python experiments/table.py results='runs/*/result.json' out=table      writes table.md, table.html and table.tex

results: a glob pattern, or several with commas between. out: the files' path without its ending.
columns: some of them, such as edit/lpips_alex,inpaint/lpips_alex, in that order; all where it is not given.
published=false: without the numbers of the papers, which otherwise stand in a table of their own below ours.
A result that cannot be read, failed, or was judged otherwise than the others is a blank with the reason.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from baselines.published_numbers import aside
from mtdiff.config.schema import given, refuse
from mtdiff.files import write_atomically
from mtdiff.results.record import find
from mtdiff.results.render import Aside, html, latex, markdown
from mtdiff.results.table import Table, only, summarise_found

DEFAULTS = {"results": "runs/*/result.json", "out": "table", "columns": "", "published": "true"}


def parse(arguments: list[str]) -> dict[str, str]:
    """key=value arguments over the defaults."""
    options = given(arguments, DEFAULTS)
    if options["published"] not in ("true", "false"):
        raise ValueError(f"published={options['published']}: expected true or false")
    return options


def write(options: dict[str, str]) -> Iterator[Path]:
    """Read all results, write the files and yield their paths."""
    found = find(options["results"])
    if not found:
        raise ValueError(f"results={options['results']}: no such file")
    if all(one.result is None for one in found):
        raise ValueError(f"{found[0].path}: {found[0].reason}")
    for one in found:
        if one.result is None:
            print(f"table.py: left blank: {one.path}: {one.reason}", file=sys.stderr)
    table = narrowed(summarise_found(found), [name for name in options["columns"].split(",") if name])
    asides = [aside()] if options["published"] == "true" else []
    writers: dict[str, Callable[[Table, Sequence[Aside]], str]] = {"md": markdown, "html": html, "tex": latex}
    for ending, render in writers.items():
        path = Path(f"{options['out']}.{ending}")
        write_atomically(path, render(table, asides))
        yield path


def narrowed(table: Table, names: Sequence[str]) -> Table:
    """The table with the columns `task/metric` alone; all of them where none is named."""
    there = {f"{column.task}/{column.metric}": column for column in table.columns}
    for name in names:
        if name not in there:
            raise refuse("columns", name, list(there))
    return only(table, [there[name] for name in names] or table.columns)


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
