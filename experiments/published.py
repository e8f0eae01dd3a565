"""Judge a published model on the examples that the methods are judged on.

    python experiments/published.py pipeline=instruct_pix2pix
    python experiments/published.py pipeline=upscaler_x4 published.weights=<folder> metrics=published run_dir=out
    python experiments/published.py pipeline=inpainting device=cuda published.steps=20 evaluation.per_task=16

Nothing is trained. Writes `result.json` (as a run's, without costs), `evaluation.csv` and `samples/` into a folder of
its own; tables take it like any other. Options: pipeline=NAME (configs/published/), device=cpu|cuda, those of the
pipeline below `published`, and data, task, tasks, evaluation, metrics, seed, name and run_dir of experiments/run.py.
"""

from mtdiff.commands.command import run_command


def main(arguments: list[str]) -> None:
    from pathlib import Path

    from mtdiff.commands.arguments import split_options
    from mtdiff.commands.compose import CONFIGS, read_configuration
    from mtdiff.commands.run import hash_configuration
    from mtdiff.config.schema import refuse
    from mtdiff.errors import ConfigError

    given, overrides = split_options(arguments, ("pipeline", "device"))
    name, device = given.get("pipeline", ""), given.get("device", "cpu")
    names = sorted(path.stem for path in (CONFIGS / "published").glob("*.yaml"))
    if name not in names:
        raise refuse("pipeline", name, names)
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise refuse("device", device, ("cpu", "cuda"))
    plain, chosen = read_configuration([f"+published={name}", *overrides])
    from baselines.judge_published import UNUSED, judge_published
    from mtdiff.results.terminal import announce

    kept = {k: v for k, v in plain.items() if k not in UNUSED}
    default = Path("runs") / str(plain["name"] or f"{name}-seed{plain['seed']}-{hash_configuration(kept)}")
    folder = default if plain["run_dir"] is None else Path(plain["run_dir"]).expanduser()
    if (folder / "result.json").exists():
        raise ConfigError(f"run_dir={folder}: holds a result.json already; choose another folder")
    announce(judge_published(name, chosen["data"], plain, device, folder), folder, "done")


if __name__ == "__main__":
    run_command(main, __doc__)
