"""Write one task of a trained run as an ordinary diffusers pipeline folder.

python experiments/export.py run=runs/<name> task=edit out=<folder>
"""

import sys
from pathlib import Path

from run import guarded
from sample import options

from mtdiff.config import refuse


def main(arguments: list[str]) -> None:
    given = options(arguments, ("run", "task", "out"), ("run", "task", "out"))
    if not Path(given["run"]).is_dir():
        raise ValueError(f"run={given['run']}: no such folder")
    out = Path(given["out"])
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out={out}: exists and is not an empty folder")
    from mtdiff.export import export
    from mtdiff.runs import load_run

    model = load_run(given["run"])
    if given["task"] not in model.tasks:
        raise refuse("task", given["task"], model.tasks)
    name = export(model, given["task"], out)
    print(f'{out}: diffusers.{name}.from_pretrained("{out}")')


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        guarded(lambda: main(sys.argv[1:]))
