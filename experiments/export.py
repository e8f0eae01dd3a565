"""Write one task of a trained run as an ordinary diffusers pipeline folder.

python experiments/export.py run=runs/<name> task=edit out=<folder>

packages=yours: whose classes the run may name, beside ours. base=<folder>: the base model, where it is one of yours.
"""

import sys

from composing import guarded
from sample import described, options

from mtdiff.files import check_folder, shown


def main(arguments: list[str]) -> None:
    given = options(arguments, ("run", "task", "out", "packages", "base"), ("run", "task", "out"))
    out = check_folder("out", given["out"])
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={shown(out)}: expected an empty folder, or none there")
    _, told = described(given)
    from mtdiff.runs.export import export_pipeline
    from mtdiff.runs.load import load_run

    model = load_run(given["run"], **told)
    name = export_pipeline(model, given["task"], out)
    print(f'{out}: diffusers.{name}.from_pretrained("{out}")')


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
    else:
        guarded(lambda: main(sys.argv[1:]))
