"""Runs merged into one, from the command line: read and checked, then built as a run, merged, judged and kept."""

import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from mtdiff.commands.arguments import list_folders, list_numbers, read_number, read_packages
from mtdiff.commands.build import build_experiment
from mtdiff.commands.compose import read_configuration
from mtdiff.commands.run import describe_adapter, start_result
from mtdiff.errors import ConfigError, shown
from mtdiff.files.writing import check_folder, write_atomically
from mtdiff.results.phases import Phases
from mtdiff.runs.adapter import About, read_about
from mtdiff.runs.checks import check_constructors
from mtdiff.runs.lock import hold_alone

if TYPE_CHECKING:
    from mtdiff.results.record import Result
    from mtdiff.runs.experiment import Experiment
    from mtdiff.runs.judging import Trivial
    from mtdiff.runs.merge import Part

OWN = ("runs", "rule", "scale", "density", "weights", "out", "base", "encoder", "packages")
VALIDATION = "validation"
SUM = "sum"
KEPT = ("data", "metrics", "training", "evaluation", "trainer", "speed", "progress", "report")
"""Options of trained runs that a merger of them takes too, by the first part of their names."""


def keep_settings(overrides: Sequence[str]) -> list[str]:
    """Of a trained run's options those that say on what, and how, it was trained and is judged."""
    return [o for o in overrides if o.partition("=")[0].lstrip("+").partition(".")[0] in KEPT]


def run_mergers(calls: Iterable[Sequence[str]], script: Path) -> int:
    """Run merge.py once for each list of its arguments; the exit code of the last that failed, else 0."""
    code = 0
    for call in calls:
        print(" ".join([script.name, *call]), flush=True)
        code = subprocess.run([sys.executable, str(script), *call], check=False).returncode or code
    return code


def merge_runs(given: Mapping[str, str], overrides: Sequence[str], trivial: "Trivial") -> None:
    """Merge the runs that a command names. overrides: of the configuration that data and evaluation come from."""
    folders, out = list_folders(given, "runs"), check_folder("out", given["out"])
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"out={shown(out)}: expected an empty folder, or none there")
    choose = given.get("scale") == VALIDATION
    scale = 1.0 if choose else read_number(given, "scale", float, 1.0)
    density = read_number(given, "density", float, 0.5)
    own = {"packages": read_packages(given), "base": given.get("base"), "encoder": given.get("encoder")}
    abouts = [read_about(Path(f), option="runs", **own) for f in folders]  # type: ignore[arg-type]
    if given["rule"] == SUM:
        sum_runs(out, abouts, given, overrides, trivial)
        return
    plain, chosen = read_configuration(overrides)
    from mtdiff.methods.merging import Rule
    from mtdiff.runs.merge import check_parts, make_method

    rule = Rule(given["rule"], scale, density, plain["seed"])  # type: ignore[arg-type]
    check_parts(abouts)
    method = make_method(abouts[0].content["method"], len(abouts))
    plain = {**plain, **describe_merged(abouts, plain), "method": method, "run_dir": str(out)}
    with hold_alone(out):
        merge_in(out, plain, chosen, abouts, rule, choose, trivial)


def sum_runs(
    out: Path, abouts: Sequence[About], given: Mapping[str, str], overrides: Sequence[str], trivial: "Trivial"
) -> None:
    """Add up runs that were trained apart, judge the sum and keep it as a run."""
    for key in ("scale", "density"):
        if key in given:
            raise ConfigError(f"{key}={shown(given[key])}: expected none with rule={SUM}, which has weights=[...]")
    weights = list_numbers(given, "weights")
    plain, chosen = read_configuration(overrides)
    from mtdiff.runs.sums import join_runs

    joined = join_runs(abouts, weights)
    named = {key: joined.content[key] for key in ("tasks", "method", "sampling")}
    nodes = {**plain["task"], **joined.content["task"]}
    plain = {**plain, **named, "task": nodes, "backbone": dict(joined.backbone), "run_dir": str(out)}
    with hold_alone(out):
        sum_in(out, plain, chosen, abouts, weights or [1.0] * len(abouts), trivial)


def sum_in(
    folder: Path,
    plain: Mapping[str, Any],
    chosen: Mapping[str, str],
    abouts: Sequence[About],
    weights: Sequence[float],
    trivial: "Trivial",
) -> None:
    """Build the sum in its folder, judge it and say what came out."""
    from mtdiff.runs.merge import execute_sum

    run, start, parts = prepare_merger(folder, plain, chosen, abouts, trivial, SUM)
    result = execute_sum(run, start, describe_adapter(plain, run.found), parts, weights)
    announce_merger(result, folder, f"{SUM} of {len(parts)} runs at weights {', '.join(f'{w:g}' for w in weights)}")


def prepare_merger(
    folder: Path,
    plain: Mapping[str, Any],
    chosen: Mapping[str, str],
    abouts: Sequence[About],
    trivial: "Trivial",
    rule: str,
) -> "tuple[Experiment, Result, list[Part]]":
    """The merged run before its adapter is put together, its result so far, and the parts with their tensors."""
    import lightning

    from mtdiff.provenance import hash_weights
    from mtdiff.results.record import Result
    from mtdiff.runs.merge import locate_result, read_part
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
    names = {**chosen, "method": f"{results[0].method}_{rule}", "backbone": results[0].backbone}
    return run, start_result(run, plain, names), parts


def announce_merger(result: "Result", folder: Path, said: str) -> None:
    from mtdiff.results.terminal import announce

    announce(result, folder, "done")
    print(f"- {said}")


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
    from mtdiff.runs.merge import execute_merge

    run, start, parts = prepare_merger(folder, plain, chosen, abouts, trivial, rule.name)
    result = execute_merge(run, start, describe_adapter(plain, run.found), parts, rule, choose)
    merged = result.method_report["merge"]
    said = f"{rule.name} of {len(parts)} runs at scale {merged['scale']:g}, in {merged['seconds']['merge']:.2f} s"
    announce_merger(result, folder, said)
