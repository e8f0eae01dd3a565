"""Suites on the command line: every run is composed and checked, then all run one after another."""

from collections.abc import Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig

from mtdiff.commands.compose import CONFIGS, check_configuration, compose_run, composer, expand_sweep
from mtdiff.commands.report import report_runs
from mtdiff.commands.run import locate_run
from mtdiff.errors import ConfigError
from mtdiff.runs.suite import Planned, budget_steps, drop_replaced, key, load, refuse_equal, run_all


def plan_suite(name: str, overrides: Sequence[str]) -> list[Planned]:
    """Every run of a suite with its folder, after the checks that a single run gets."""
    suite, runs = load(name, CONFIGS / "suite"), []
    known: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}
    with composer():
        for run in (run for line in suite.given(overrides) for run in expand_sweep(line)):
            kept = tuple(drop_replaced(run, ["seed"]))
            if kept not in known:  # composing takes 0.1 s, and most runs differ in the seed alone
                known[kept] = compose_run(kept)
            composed, chosen = known[kept]
            config = composed.copy()
            config.seed = next((yaml.safe_load(o.partition("=")[2]) for o in run if key(o) == "seed"), config.seed)
            plain = check_configuration(config)
            plain["training"]["steps"] = budget_steps(suite, plain)
            group = [] if plain["logger"]["group"] else [f"logger.group={suite.name}"]
            steps = f"training.steps={plain['training']['steps']}"
            planned = [*drop_replaced(run, [steps]), steps, *group]
            runs.append(Planned(planned, locate_run(plain, chosen), report=plain["report"]))
    return refuse_equal(suite, runs)


def run_suites(arguments: Sequence[str], command: Sequence[str]) -> int:
    """Run the suites named among overrides, one after another; the exit code says whether every run is complete.

    A later suite may need the runs of an earlier one, so each is planned when its turn comes. command: what runs one of
    them, without its overrides.
    """
    flags = [a for a in arguments if a.startswith("-")]
    if flags:
        raise ConfigError(f"{flags[0]}: not together with suite=...")
    named = next(a.partition("=")[2] for a in reversed(arguments) if a.startswith("suite="))
    overrides = [a for a in arguments if not a.startswith("suite=")]
    names = named.split(",")
    for name in names:
        load(name, CONFIGS / "suite")
    return max([run_suite(name, overrides, command) for name in names])


def run_suite(name: str, overrides: Sequence[str], command: Sequence[str]) -> int:
    """Run one suite, then write the page over all of its runs."""
    runs = plan_suite(name, overrides)
    try:
        return run_all(runs, lambda run: [*command, *run.overrides])
    finally:
        report_runs([run.folder for run in runs if run.report], Path(name).stem)
