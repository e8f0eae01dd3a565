"""Read a data set before a run does: counts, sizes, empty captions, unreadable pictures.

    python experiments/check_data.py data=folder data.edit=/pictures/edits
    python experiments/check_data.py data=published data.picture=/pictures/hr out=check.json limit=1000 threads=8

Options of run.py, and: out, a JSON file; limit, rows read of each kind and split (all where it is not given); threads.
Ends with 1 where something should be mended.
"""

import json
import sys
from pathlib import Path
from typing import Any

from composing import CONFIGS, checked, composed, guarded
from hydra import initialize_config_dir
from sample import number

OWN = ("out", "limit", "threads")


def divided(arguments: list[str], own: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """This command's own options, and the overrides of run.py's configuration."""
    given, overrides = {}, []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in own:
            given[key] = value
        else:
            overrides.append(argument)
    return given, overrides


def configured(overrides: list[str]) -> dict[str, Any]:
    """The checked configuration, before torch is imported."""
    with initialize_config_dir(str(CONFIGS.resolve()), version_base=None):
        return checked(composed(overrides))


def main(arguments: list[str]) -> None:
    given, overrides = divided(arguments, OWN)
    limit, threads = number(given, "limit", int, None, 1), number(given, "threads", int, 4, 1)
    plain = configured(overrides)
    from rich.console import Console

    from mtdiff.config.schema import construct
    from mtdiff.data.tables import checker

    report = checker.checked(construct(plain["data"]), limit, threads)
    found = checker.problems(report)
    if "out" in given:
        Path(given["out"]).write_text(json.dumps({"data": report, "problems": found}, indent=1) + "\n")
    console = Console()
    console.width = max(console.width, 120)
    console.print(checker.printed(report))
    for line in found:
        console.print(f"- {line}", soft_wrap=True)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        guarded(lambda: main(sys.argv[1:]))
