"""One run of a configuration in its folder: refused where another is there, gone on with, or complete already."""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from mtdiff.commands.build import build_experiment
from mtdiff.commands.compose import check_configuration
from mtdiff.commands.report import report_run
from mtdiff.config.defaults import fill_defaults, strip_defaults
from mtdiff.errors import ConfigError, shown
from mtdiff.files.reading import check_links, read_yaml
from mtdiff.files.writing import check_folder, first_process, write_atomically
from mtdiff.results.phases import Phases
from mtdiff.runs.adapter import drop_teacher
from mtdiff.runs.checks import check_constructors, list_compared_tasks
from mtdiff.runs.lock import hold_alone

if TYPE_CHECKING:
    from mtdiff.results.record import Result
    from mtdiff.runs.experiment import Experiment
    from mtdiff.runs.judging import Trivial

NOT_IDENTITY = ("name", "run_dir", "logger", "progress", "report", "packages")
"""Options that make a run no other experiment; nor does `training.cache`, which changes no number."""
OURS = ("result.json", "wandb.json", "wandb", "checkpoints", "faults", "metrics.csv", ".lock")
"""What a run may leave before its configuration."""


def hash_configuration(plain: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of what makes the run another experiment: of options that are not at their defaults."""
    identity = strip_defaults(identify(plain))
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def identify(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that makes a run another experiment."""
    kept = {k: v for k, v in plain.items() if k not in NOT_IDENTITY and not (k == "init_from" and v is None)}
    if all(isinstance(kept.get(k), kind) for k, kind in (("task", dict), ("tasks", list), ("weights", dict))):
        kept["task"] = {name: kept["task"][name] for name in list_compared_tasks(kept)}
    if isinstance(kept.get("training"), Mapping):
        kept["training"] = {k: v for k, v in kept["training"].items() if k != "cache"}
    return kept


def locate_run(plain: Mapping[str, Any], chosen: Mapping[str, str]) -> Path:
    """The folder that a run goes to: the one asked for, or one named by what was chosen."""
    if plain["run_dir"] is not None:
        return Path(plain["run_dir"]).expanduser()
    subset = "" if len(plain["tasks"]) == len(list_compared_tasks(plain)) else "-" + "+".join(plain["tasks"])
    what = f"{chosen['method']}-{chosen['backbone']}-{chosen['data']}{subset}"
    default = f"{what}-seed{plain['seed']}-{hash_configuration(plain)}"
    return Path("runs") / str(plain["name"] or default)


def refuse_another(folder: Path, plain: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another experiment."""
    if not (folder / "config.yaml").exists():
        return
    there = read_yaml(folder / "config.yaml")
    known = fill_defaults(identify(there)) if isinstance(there, dict) else {}  # an option that it lacks has its default
    for name, value in fill_defaults(identify(plain)).items():
        if known.get(name) != value:
            raise ConfigError(f"run_dir={folder}: holds a run with another `{name}`; choose another folder")


def run_once(config: DictConfig, chosen: Mapping[str, str], trivial: "Trivial") -> None:
    """Check a composed configuration, take its folder alone, and run what is not complete there."""
    plain = check_configuration(config)
    folder = locate_run(plain, chosen)
    check_links(check_folder("run_dir", folder))
    if first_process() and (others := list_others(folder)):
        which = f"{len(others)} other files, first {shown(others[0])}"
        print(f"run_dir={shown(folder)}: holds no run but {which}; they stay as they are", file=sys.stderr)
    with hold_alone(folder):
        run_in(folder, plain, chosen, trivial)


def finish_report(folder: Path, plain: Mapping[str, Any]) -> None:
    if plain["report"]:
        report_run(folder)


def list_others(folder: Path) -> list[str]:
    """What lies in a folder that is to become a run's, and no run has put there."""
    if not folder.is_dir() or (folder / "config.yaml").exists():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name not in OURS)


def describe_adapter(plain: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `adapter.json` says of a run. found: options of its tasks that follow from its data."""
    about = {"method": drop_teacher(plain["method"]), "backbone": plain["backbone"], "tasks": plain["tasks"]}
    about |= {"task": {name: {**plain["task"][name], **found.get(name, {})} for name in list_compared_tasks(plain)}}
    return about | {"sampling": plain["sampling"], "seed": plain["seed"], "schema": 1}


def start_result(made: "Experiment", plain: Mapping[str, Any], chosen: Mapping[str, str]) -> "Result":
    """The result of a run before anything is trained: what it is, where it comes from, and what it costs."""
    from mtdiff.costs.drawing import measure_picture
    from mtdiff.costs.flops import has_source
    from mtdiff.costs.measure import measure_run
    from mtdiff.provenance import provenance
    from mtdiff.results.record import Result

    sources = [has_source(task) for task in made.data.tasks.values()]
    with made.phases.start("measure costs"):
        number, budget = len(list_compared_tasks(plain)), made.painter.budget
        params, cost = measure_run(made.module.denoiser, number, sources, budget=budget)
        cost |= measure_picture(made.painter, sources)
    return Result(
        chosen["method"],
        chosen["backbone"],
        chosen["data"],
        plain["tasks"],
        plain["seed"],
        config=dict(plain),
        params=dict(params),
        cost=cost,
        **provenance(str(made.module.device)),
    )


def run_in(folder: Path, plain: Mapping[str, Any], chosen: Mapping[str, str], trivial: "Trivial") -> None:
    """Run an experiment in a folder that is ours, or say that it is complete already."""
    refuse_another(folder, plain)
    from mtdiff.results.terminal import announce

    if (folder / "result.json").exists():
        from mtdiff.results.record import Result

        earlier = Result.load(folder / "result.json")
        if earlier.status == "complete":
            announce(earlier, folder, "complete already")
            finish_report(folder, plain)
            return
    phases = Phases(shown=plain["progress"] and first_process())
    with phases.start("load"):
        check_constructors(plain)
        made = build_experiment(plain, folder, trivial, phases)
    if first_process():
        write_atomically(
            folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(plain)))
        )  # not earlier: a constructor may yet refuse an option
    from mtdiff.runs.execute import execute

    start = start_result(made, plain, chosen)
    result = execute(made, start, describe_adapter(plain, made.found))
    if first_process():
        announce(result, folder, "done")
        for name, count in made.data.count_skipped().items():
            print(f"- data: {count} unreadable rows of {name} were replaced")
        if cut := made.module.denoiser.backbone.cut_prompts():
            first, tokens = next(iter(cut.items()))
            print(
                f"- data: {len(cut)} prompts were cut after {tokens} tokens, the most that the base reads, first: "
                f"{shown(first, 60)}"
            )
        if made.module.cache is not None:
            print(f"- {made.module.cache.report()}")
        finish_report(folder, plain)
