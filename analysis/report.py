"""One self-contained page over many runs: verdicts, a table, cost and quality, pictures side by side, differences.

python analysis/report.py results='runs/*/result.json' out=report     writes report.html and report_pictures/ beside it

results: a glob pattern, or several with commas between. out: the page's path, without its ending if you like.
inline=true: the pictures lie inside of the page too, so that it is one file.
The page opens from a file without a network. What cannot be read, failed or is of another budget is said in it.
"""

from mtdiff.commands.command import run_command

DEFAULTS = {"results": "runs/*/result.json", "out": "report", "inline": "false"}


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import check_output, override_defaults, read_switch
    from mtdiff.results.find import find
    from mtdiff.results.page.write import locate_page, write_report

    options = override_defaults(arguments, DEFAULTS)
    out, inline = locate_page(options["out"]), read_switch(options, "inline", False)
    check_output(out)
    found = find(options["results"])
    if not found:
        raise ValueError(f"results={options['results']}: no such file")
    print(write_report(found, out, inline=inline))


if __name__ == "__main__":
    run_command(main, __doc__, prefix="report.py")
