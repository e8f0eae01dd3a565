"""Copy complete runs into a small folder that can be committed: each result, and one picture per task beside it.

python experiments/collect.py runs='runs/*/result.json' study=main        into experiments/results/main/<run>.json
                                                                          and <run>-<task>.webp
out: another folder than experiments/results. pictures=false: the results alone. seeds=0: pictures of these seeds alone.
What is there already under the same name is replaced.
"""

from pathlib import Path

from mtdiff.commands.command import run_command

DEFAULTS = {"runs": "runs/*/result.json", "study": "", "out": "", "pictures": "true", "seeds": ""}
RESULTS = Path(__file__).resolve().parent / "results"


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import override_defaults, read_switch
    from mtdiff.results.collect import collect_runs

    options = override_defaults(arguments, DEFAULTS)
    study, pictures = options["study"], read_switch(options, "pictures", True)
    if not study or Path(study).name != study:
        raise ValueError(f"study={study}: expected the name of a folder")
    if not options["seeds"].replace(",", "").isdecimal() and options["seeds"]:
        raise ValueError(f"seeds={options['seeds']}: expected numbers with commas between")
    seeds = {int(seed) for seed in options["seeds"].split(",") if seed}
    folder = Path(options["out"] or RESULTS) / study
    written = list(collect_runs(options["runs"], folder, pictures=pictures, seeds=seeds))
    print(f"{len(written)} files, {sum(path.stat().st_size for path in written) / 1e6:.2f} MB")


if __name__ == "__main__":
    run_command(main, __doc__, prefix="collect.py")
