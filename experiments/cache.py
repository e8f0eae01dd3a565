"""Compute the encodings of a run once: latents of pictures, embeddings of prompts. Then train with the same options.

    python experiments/cache.py data=folder data.edit=/pictures/edits tasks=[edit] training.cache=/scratch/cache
    python experiments/run.py   data=folder data.edit=/pictures/edits tasks=[edit] training.cache=/scratch/cache

Options of run.py, and:
keep=lasting   what comes again in later epochs, of the first `examples` of the run (an epoch where it is not given)
keep=all       all of the first `examples` (the whole run): for several methods with one seed, which see the same ones
What is there already is not computed again, so a command that was cut off goes on.
"""

from mtdiff.commands.command import run_command

KEEPS = ("lasting", "all")


def main(arguments: list[str]) -> None:
    from mtdiff.commands.arguments import read_number, split_options
    from mtdiff.commands.compose import read_configuration
    from mtdiff.config.schema import refuse
    from mtdiff.errors import ConfigError
    from mtdiff.runs.checks import check_constructors

    given, overrides = split_options(arguments, ("examples", "keep"))
    examples, keep = read_number(given, "examples", int, low=1), given.get("keep", "lasting")
    if keep not in KEEPS:
        raise refuse("keep", keep, KEEPS)
    plain, _ = read_configuration(overrides)
    if plain["training"]["cache"] in (None, "auto"):
        raise ConfigError("training.cache: has to be given, a folder")
    check_constructors(plain)
    from mtdiff.commands.encode import fill_cache

    fill_cache(plain, examples, everything=keep == "all")


if __name__ == "__main__":
    run_command(main, __doc__)
