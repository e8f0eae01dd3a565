"""Write one task of a trained run as an ordinary diffusers pipeline folder, with a model card.

python experiments/export.py run=runs/<name> task=edit out=<folder>

packages=yours: whose classes the run may name, beside ours. base=<folder>: the base model, where it is one of yours.
"""

from mtdiff.commands.command import run_command


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import parse_options
    from mtdiff.commands.pictures import read_run
    from mtdiff.files import check_folder, shown

    given = parse_options(arguments, ("run", "task", "out", "packages", "base"), ("run", "task", "out"))
    out = check_folder("out", given["out"])
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={shown(out)}: expected an empty folder, or none there")
    about, options = read_run(given)
    from mtdiff.runs.card import write_card
    from mtdiff.runs.export import export_pipeline
    from mtdiff.runs.load import load_run

    model = load_run(given["run"], **options)
    name = export_pipeline(model, given["task"], out)
    write_card(out, about, given["task"], model.takes[given["task"]], name)
    print(f'{out}: diffusers.{name}.from_pretrained("{out}")')


if __name__ == "__main__":
    run_command(main, __doc__)
