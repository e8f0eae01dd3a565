"""Write one task of a trained run as an ordinary diffusers pipeline folder, or as an adapter, with a model card.

python experiments/export.py run=runs/<name> task=edit out=<folder>

form=pipeline   the whole network (the default)
form=lora       what training has changed, for diffusers' load_lora_weights and for peft; where that is of low rank
form=ia3        the same for peft, where layers were scaled
adapter=[runs/<a>,runs/<b>] weights=[1,0.5] in place of run=: runs that add up.
packages=yours: whose classes the run may name, beside ours. base=<folder>: the base model, where it is one of yours.
"""

from mtdiff.commands.command import run_command

FORMS = ("pipeline", "lora", "ia3")


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import parse_options
    from mtdiff.commands.pictures import read_run
    from mtdiff.config.schema import refuse
    from mtdiff.errors import shown
    from mtdiff.files.writing import check_folder

    sums = any(argument.startswith("adapter=") for argument in arguments)
    allowed = ("run", "adapter", "weights", "task", "out", "form", "packages", "base", "encoder")
    given = parse_options(arguments, allowed, ("adapter" if sums else "run", "task", "out"))
    if sums and "run" in given:
        raise ValueError(f"run={shown(given['run'])}: expected none beside adapter=[...]")
    form, task = given.get("form", "pipeline"), given["task"]
    if form not in FORMS:
        raise refuse("form", form, FORMS)
    out = check_folder("out", given["out"])
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={shown(out)}: expected an empty folder, or none there")
    about, options = read_run(given)
    from mtdiff.runs.card import write_card
    from mtdiff.runs.export import count_channels, export_pipeline
    from mtdiff.runs.load import load_run
    from mtdiff.runs.peft_export import export_adapter

    model = load_run(**options)
    channels = count_channels(model, task)
    name = export_pipeline(model, task, out) if form == "pipeline" else export_adapter(model, about, task, out, form)
    write_card(out, about, task, model.takes[task], name, channels, form)
    print(f"{out}: a {name}, README.md has how to draw with it")


if __name__ == "__main__":
    run_command(main, __doc__)
