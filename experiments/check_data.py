"""Read a data set before a run does: counts, sizes, empty captions, unreadable pictures.

    python experiments/check_data.py data=folder data.edit=/pictures/edits
    python experiments/check_data.py data=published data.picture=/pictures/hr out=check.json limit=1000 threads=8

Options of run.py, and: out, a JSON file; limit, rows read of each kind and split (all where it is not given); threads.
Ends with 1 where something should be mended.
"""

import json

from mtdiff.commands.command import run_command


def main(arguments: list[str]) -> int:
    from mtdiff.commands.arguments import check_output, read_number, split_options
    from mtdiff.commands.compose import read_configuration

    given, overrides = split_options(arguments, ("out", "limit", "threads"))
    limit, threads = read_number(given, "limit", int, low=1), read_number(given, "threads", int, 4, 1)
    out = check_output(given.get("out"))
    plain, _ = read_configuration(overrides)
    from rich.console import Console

    from mtdiff.config.schema import construct
    from mtdiff.data.tables import checker
    from mtdiff.files.writing import write_atomically

    report = checker.check_source(construct(plain["data"]), limit, threads)
    found = checker.problems(report)
    if out is not None:
        write_atomically(out, json.dumps({"data": report, "problems": found}, indent=1) + "\n")
    console = Console()
    console.width = max(console.width, 120)
    console.print(checker.print_report(report))
    for line in found:
        console.print(f"- {line}", soft_wrap=True)
    return 1 if found else 0


if __name__ == "__main__":
    run_command(main, __doc__)
