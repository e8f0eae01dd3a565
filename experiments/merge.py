"""Merge runs of one task each into one run of all their tasks, without training; judge and keep it like a trained one.

python experiments/merge.py runs=[runs/a,runs/b] rule=task_arithmetic scale=0.4 out=runs/merged

rule       average, task_arithmetic, ties or dare; of what training has changed (fine-tuning, MTU of one expert), or of
           LoRA adapters, by peft
scale      of the merged change (1), or validation: the one of 0.2 to 1 with the least error on validation examples
density    share of the values that ties and dare keep (0.5)
weights    with rule=sum: of runs of one task that add up as they are, such as EMMA's (docs/references.md)
base=<folder>, encoder=<folder>: the base model or the picture encoder, where it is one of yours.
packages=yours: whose classes the runs may name, beside ours.
Other options are those of run.py that data, evaluation and trainer come from, such as data=folder data.edit=...
"""

from typing import Any

from mtdiff.commands.command import run_command

REQUIRED = ("runs", "rule", "out")


def answer_trivially(*given: Any, **drawn: Any) -> Any:
    from baselines.trivial import trivial  # imports torch

    return trivial(*given, **drawn)


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import split_options
    from mtdiff.commands.merge import OWN, merge_runs

    given, overrides = split_options(arguments, OWN)
    for key in REQUIRED:
        if not given.get(key):
            raise ValueError(f"{key}: has to be given, as {key}=...")
    merge_runs(given, overrides, answer_trivially)


if __name__ == "__main__":
    run_command(main, __doc__)
