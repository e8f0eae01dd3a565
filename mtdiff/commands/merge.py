"""Runs merged into one, from the command line: read and checked, then built as a run, merged, judged and kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from omegaconf import OmegaConf

from mtdiff.commands.arguments import read_number, read_packages
from mtdiff.commands.build import build_experiment
from mtdiff.commands.compose import read_configuration
from mtdiff.commands.run import describe_adapter, start_result
from mtdiff.errors import ConfigError
from mtdiff.files import check_folder, shown, write_atomically
from mtdiff.results.phases import Phases
from mtdiff.runs.adapter import About, read_about
from mtdiff.runs.checks import check_constructors
from mtdiff.runs.lock import hold_alone

if TYPE_CHECKING:
    from mtdiff.runs.judging import Trivial

OWN = ("runs", "rule", "scale", "density", "out", "base", "packages")
VALIDATION = "validation"


def list_runs(text: str) -> list[str]:
    """Folders of `runs=[a,b]` or `runs=a,b`."""
    try:
        found = yaml.safe_load(text if text.startswith("[") else f"[{text}]")
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(f, str) and f for f in found):
        raise ConfigError(f"runs={shown(text)}: expected folders of runs, such as [runs/a,runs/b]")
    return found


def merge_runs(given: Mapping[str, str], overrides: Sequence[str], trivial: "Trivial") -> None:
    """Merge the runs that a command names. overrides: of the configuration that data and evaluation come from."""
    folders, out = list_runs(given["runs"]), check_folder("out", given["out"])
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"out={shown(out)}: expected an empty folder, or none there")
    choose = given.get("scale") == VALIDATION
    scale = 1.0 if choose else read_number(given, "scale", float, 1.0)
    density = read_number(given, "density", float, 0.5)
    abouts = [read_about(Path(f), read_packages(given), given.get("base"), "runs") for f in folders]
    plain, chosen = read_configuration(overrides)
    from mtdiff.methods.merging import Rule
    from mtdiff.runs.merge import check_parts, make_method

    rule = Rule(given["rule"], scale, density, plain["seed"])  # type: ignore[arg-type]
    check_parts(abouts)
    method = make_method(abouts[0].content["method"], len(abouts))
    plain = {**plain, **describe_merged(abouts, plain), "method": method, "run_dir": str(out)}
    with hold_alone(out):
        merge_in(out, plain, chosen, abouts, rule, choose, trivial)


def describe_merged(parts: Sequence[About], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Tasks, backbone and sampling of the merged run's configuration: those of the parts."""
    tasks = [about.tasks[0] for about in parts]
    nodes = {name: about.content["task"][name] for name, about in zip(tasks, parts, strict=True)}
    first = parts[0]
    return {
        "tasks": tasks,
        "task": {**plain["task"], **nodes},
        "backbone": dict(first.backbone),
        "sampling": dict(first.content["sampling"]),
    }


def merge_in(
    folder: Path,
    plain: Mapping[str, Any],
    chosen: Mapping[str, str],
    abouts: Sequence[About],
    rule: Any,
    choose: bool,
    trivial: "Trivial",
) -> None:
    """Build the merged run in its folder, judge it and say what came out."""
    import lightning

    from mtdiff.provenance import hash_weights
    from mtdiff.results.record import Result
    from mtdiff.results.terminal import announce
    from mtdiff.runs.merge import execute_merge, locate_result, read_part
    from mtdiff.training.parallel import trainer_arguments

    phases = Phases(shown=plain["progress"])
    results = [Result.load(locate_result(about)) for about in abouts]
    with phases.start("load"):
        check_constructors(plain)
        run = build_experiment(plain, folder, trivial, phases)
        assert run.base is not None
        base = run.base()
        digest = hash_weights(base.parameters())
        parts = [read_part(about, result, base, digest) for about, result in zip(abouts, results, strict=True)]
    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(plain))))
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    run.module.to(lightning.Trainer(**trainer_arguments(run.trainer), **quiet).strategy.root_device)
    names = {**chosen, "method": f"{results[0].method}_{rule.name}", "backbone": results[0].backbone}
    start = start_result(run, plain, names)
    result = execute_merge(run, start, describe_adapter(plain, run.found), parts, rule, choose)
    announce(result, folder, "done")
    merged = result.method_report["merge"]
    print(f"- {rule.name} of {len(parts)} runs at scale {merged['scale']:g}, in {merged['seconds']['merge']:.2f} s")
