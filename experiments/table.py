"""One table of many runs, as Markdown, as a self-contained HTML page and as LaTeX (booktabs).

python experiments/table.py results='runs/*/result.json' out=table      writes table.md, table.html and table.tex

results: a glob pattern, or several with commas between. out: the files' path without its ending.
columns: some of them, such as edit/lpips_alex,inpaint/lpips_alex, in that order; all where it is not given.
published=false: without the numbers of the papers, which otherwise stand in a table of their own below ours.
A result that cannot be read, failed, or was judged otherwise than the others is a blank with the reason.
"""

import sys

from mtdiff.commands.command import run_command

DEFAULTS = {"results": "runs/*/result.json", "out": "table", "columns": "", "published": "true"}


def main(arguments: list[str]) -> None:
    from baselines.published_numbers import aside
    from mtdiff.commands.arguments import override_defaults, read_switch
    from mtdiff.results.find import find
    from mtdiff.results.summary import summarise_found
    from mtdiff.results.write import select_columns, write_tables

    options = override_defaults(arguments, DEFAULTS)
    published = read_switch(options, "published", True)
    found = find(options["results"])
    if not found:
        raise ValueError(f"results={options['results']}: no such file")
    if all(one.result is None for one in found):
        raise ValueError(f"{found[0].path}: {found[0].reason}")
    for one in found:
        if one.result is None:
            print(f"table.py: left blank: {one.path}: {one.reason}", file=sys.stderr)
    table = select_columns(summarise_found(found), [name for name in options["columns"].split(",") if name])
    for path in write_tables(table, [aside()] if published else [], options["out"]):
        print(path)


if __name__ == "__main__":
    run_command(main, __doc__, prefix="table.py")
