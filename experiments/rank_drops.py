"""Order the parts that a base can do without by the prediction error that each leaves, with what it saves.

    python experiments/rank_drops.py                                     the shipped base; a minute on a laptop
    python experiments/rank_drops.py backbone=nano_dit repeats=0 out=ranking.json

The error is that of the untrained rest against the base, on noised validation examples, over the base's mean square.
The first of the list is the first candidate for `method=assembled method.drop=[...]`. Options of its own:

    out=FILE      a JSON file beside the table
    repeats=20    turns of timing on the CPU, base and rest one after the other; 0: none

All others are those of experiments/run.py: backbone, data, tasks, seed, evaluation.validation_per_task.
"""

import json

from mtdiff.commands.command import run_command


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import check_output, read_number, split_options
    from mtdiff.commands.compose import read_configuration
    from mtdiff.config.schema import construct
    from mtdiff.files.writing import write_atomically

    own, overrides = split_options(arguments, ("out", "repeats"))
    out, repeats = check_output(own.get("out")), read_number(own, "repeats", int, 20, 0)
    plain, chosen = read_configuration(overrides)
    from mtdiff.provenance import provenance
    from mtdiff.runs.drops import Noised, describe_drops, rank_drops, read_examples

    backbone = construct(plain["backbone"])
    noised = Noised.of(backbone, read_examples(plain), plain["seed"])
    found = rank_drops(backbone, noised, repeats)
    print("\n".join(describe_drops(found)))
    if out is not None:
        about = {"schema": 1, **provenance("cpu"), "backbone": chosen["backbone"], "examples": len(noised.t)}
        write_atomically(out, json.dumps({**about, "drops": [vars(drop) for drop in found]}, indent=1) + "\n")


if __name__ == "__main__":
    run_command(main, __doc__)
