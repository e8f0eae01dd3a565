"""Train, evaluate and keep one experiment, or a sweep of them.

    python experiments/run.py method=mtu                            -> runs/<name>/
    python experiments/run.py method=lora_ffn tasks=[edit] seed=1 run_dir=out
    python experiments/run.py -m method=mtu,lora_ffn seed=0,1,2
    python experiments/run.py suite=main [training.steps=400 ...]  -> the runs listed in configs/suite/main.yaml

A finished run is not run again; an unfinished one goes on from its last checkpoint.
"""

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
import yaml
from composing import CONFIGS, checked, composed, groups, guarded, precheck, sections, single_runs
from hydra import initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from mtdiff.config.schema import construct
from mtdiff.errors import ConfigError
from mtdiff.files import check_folder, check_links, first_process, read_yaml
from mtdiff.runs.adapter import started
from mtdiff.runs.checks import check_constructors
from mtdiff.runs.lock import alone
from mtdiff.runs.suite import Planned, budgeted, distinct, key, load, run_all, without

if TYPE_CHECKING:
    from mtdiff.backbones.base import Backbone
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.runs.experiment import Experiment
    from mtdiff.training.encodings import CachedEncoder

NOT_IDENTITY = ("name", "run_dir", "logger", "progress", "packages")


# 1. Construction


def experiment(plain: Mapping[str, Any], folder: Path) -> "Experiment":
    """The experiment that a checked configuration describes."""
    from baselines.trivial import trivial
    from mtdiff.data.module import MixtureModule
    from mtdiff.runs.experiment import Experiment
    from mtdiff.runs.load import make_painter
    from mtdiff.training.module import MultiTaskModule

    settings = sections(plain)
    training, evaluation = settings["training"], settings["evaluation"]
    tasks = {name: construct(plain["task"][name]) for name in plain["tasks"]}
    data = MixtureModule(
        construct(plain["data"]),
        tasks,
        {name: plain["weights"].get(name, 1.0) for name in tasks},
        batch_size=training.batch_size,
        workers=training.workers,
        seed=plain["seed"],
        test_per_task=evaluation.per_task,
        validation_per_task=evaluation.validation_per_task,
        test_split=evaluation.split,
    )
    denoiser, untouched = denoisers(plain, settings)
    module = MultiTaskModule(
        denoiser,
        training,
        seed=plain["seed"],
        balancing=construct(plain["balancing"]),
        cache=cached(training.cache, denoiser.backbone, plain),
        fused=settings["speed"].fused,
    )
    return Experiment(
        module=module,
        painter=make_painter(denoiser, settings["sampling"]),
        data=data,
        training=training,
        evaluation=evaluation,
        trainer=plain["trainer"],
        folder=folder,
        trivial=trivial,
        judge=settings["metrics"].judge(),
        untouched=untouched,
        wandb=wandb_options(plain, folder) if plain["logger"]["wandb"] else None,
        progress=bool(plain["progress"]),
        patience=float(plain["logger"]["patience"]),
        base=lambda: construct(plain["backbone"]),
    )


def denoisers(plain: Mapping[str, Any], settings: Mapping[str, Any]) -> "tuple[Denoiser, Denoiser | None]":
    """The base with the method on it, ready to be trained; and the untouched base, or None without baselines."""
    import torch

    from mtdiff.methods.untouched import Untouched
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.runs.load import load_adapter
    from mtdiff.training.memory import use_channels_last

    torch.manual_seed(plain["seed"])  # what a method draws at the start
    denoiser = Denoiser(construct(plain["backbone"]), construct(plain["method"]), plain["tasks"])
    if (start := started(plain)) is not None:
        load_adapter(denoiser, start)
    baselines, speed = settings["evaluation"].baselines, settings["speed"]
    untouched = Denoiser(construct(plain["backbone"]), Untouched(), plain["tasks"]) if baselines else None
    if settings["training"].gradient_checkpointing:
        denoiser.backbone.enable_gradient_checkpointing()
    if speed.channels_last:
        use_channels_last(denoiser.backbone)
    if speed.compile:
        denoiser.backbone.compile_denoiser(in_parts=plain["trainer"].get("strategy") == "fsdp")
    return denoiser, untouched


def cached(folder: str | None, backbone: "Backbone", plain: Mapping[str, Any]) -> "CachedEncoder | None":
    """Encodings that are looked up in training, or None. The backbone is still on the CPU, as when they were made."""
    if folder is None:
        return None
    from mtdiff.training.cache import Cache
    from mtdiff.training.encodings import CachedEncoder

    return CachedEncoder(backbone, Cache(folder, backbone, str(plain["trainer"].get("precision"))))


def wandb_options(plain: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    import os

    logger = plain["logger"]
    known = os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()
    offline = os.environ.get("WANDB_MODE") == "offline" or not known
    tags = [plain["method"]["_target_"].rpartition(".")[2], *plain["tasks"], *logger["tags"]]
    return {
        "project": logger["project"],
        "group": logger["group"],
        "tags": tags,
        "name": folder.name,
        "offline": offline,
        "config": dict(plain),
    }


# 2. The run folder


def fingerprint(plain: Mapping[str, Any]) -> str:
    identity = {k: v for k, v in plain.items() if k not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def run_folder(plain: Mapping[str, Any], chosen: Mapping[str, str]) -> Path:
    if plain["run_dir"] is not None:
        return Path(plain["run_dir"])
    subset = "" if len(plain["tasks"]) == len(plain["task"]) else "-" + "+".join(plain["tasks"])
    default = (
        f"{chosen['method']}-{chosen['backbone']}-{chosen['data']}{subset}-seed{plain['seed']}-{fingerprint(plain)}"
    )
    return Path("runs") / str(plain["name"] or default)


def refuse_another(folder: Path, plain: Mapping[str, Any]) -> None:
    """Refuse a folder that holds another experiment."""
    if not (folder / "config.yaml").exists():
        return
    there = read_yaml(folder / "config.yaml")
    for name, value in plain.items():
        if name not in NOT_IDENTITY and (not isinstance(there, dict) or there.get(name) != value):
            raise ConfigError(f"run_dir={folder}: holds a run with another `{name}`; choose another folder")


def claim(folder: Path, plain: Mapping[str, Any]) -> None:
    """Write `config.yaml`."""
    from mtdiff.files import write_atomically

    write_atomically(folder / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(plain))))


def one_run(config: DictConfig, chosen: Mapping[str, str]) -> None:
    plain = checked(config)
    sections(plain)
    folder = run_folder(plain, chosen)
    check_links(check_folder("run_dir", folder))
    with alone(folder):
        run_in(folder, plain, chosen)


def run_in(folder: Path, plain: Mapping[str, Any], chosen: Mapping[str, str]) -> None:
    refuse_another(folder, plain)
    from mtdiff.results.terminal import announce

    if (folder / "result.json").exists():
        from mtdiff.results.record import Result

        earlier = Result.load(folder / "result.json")
        if earlier.status == "complete":
            announce(earlier, folder, "complete already")
            return
    check_constructors(plain)
    made = experiment(plain, folder)
    if first_process():
        claim(folder, plain)  # not earlier: a constructor may yet refuse an option
    from mtdiff.costs.flops import has_source
    from mtdiff.costs.measure import measure_run
    from mtdiff.provenance import provenance
    from mtdiff.results.record import Result
    from mtdiff.runs.experiment import execute

    sources = [has_source(task) for task in made.data.tasks.values()]
    params, cost = measure_run(made.module.denoiser, len(plain["task"]), sources)
    about = {"method": plain["method"], "backbone": plain["backbone"], "tasks": plain["tasks"], "task": plain["task"]}
    about |= {"sampling": plain["sampling"], "seed": plain["seed"], "schema": 1}
    start = Result(
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
    result = execute(made, start, about)
    if first_process():
        announce(result, folder, "done")
        for name, count in made.data.skipped().items():
            print(f"- data: {count} unreadable rows of {name} were replaced")
        if made.module.cache is not None:
            print(f"- {made.module.cache.report()}")


# 3. Suites


def planned(name: str, overrides: list[str]) -> list[Planned]:
    """Every run of a suite with its folder, after the checks that a single run gets."""
    suite, runs = load(name, CONFIGS / "suite"), []
    known: dict[tuple[str, ...], DictConfig] = {}  # composing takes 0.1 s, and most runs differ in the seed alone
    with initialize_config_dir(str(CONFIGS.resolve()), version_base=None):
        for run in (run for line in suite.given(overrides) for run in single_runs(line)):
            kept = tuple(without(run, ["seed"]))
            if kept not in known:
                known[kept] = composed(list(kept), with_hydra=True)
            config = OmegaConf.masked_copy(known[kept], [str(k) for k in known[kept] if k != "hydra"])
            config.seed = next((yaml.safe_load(o.partition("=")[2]) for o in run if key(o) == "seed"), config.seed)
            plain = checked(config)
            sections(plain)
            plain["training"]["steps"] = budgeted(suite, plain)
            group = [] if plain["logger"]["group"] else [f"logger.group={suite.name}"]
            steps = f"training.steps={plain['training']['steps']}"
            chosen = {k: str(v) for k, v in known[kept].hydra.runtime.choices.items()}
            runs.append(Planned([*without(run, [steps]), steps, *group], run_folder(plain, chosen)))
    return distinct(suite, runs)


def run_suite(arguments: list[str]) -> None:
    """`suite=NAME` among overrides: the exit code says whether every run is complete."""
    flags = [a for a in arguments if a.startswith("-")]
    if flags:
        raise ConfigError(f"{flags[0]}: not together with suite=...")
    names = [a.partition("=")[2] for a in arguments if a.startswith("suite=")]
    runs = planned(names[-1], [a for a in arguments if not a.startswith("suite=")])
    sys.exit(run_all(runs, lambda run: [sys.executable, __file__, *run.overrides]))


# 4. The command line


@hydra.main(version_base=None, config_path="configs", config_name="config")
def main(config: DictConfig) -> None:
    from hydra.core.hydra_config import HydraConfig

    job = HydraConfig.get()
    chosen = {k: str(v) for k, v in job.runtime.choices.items() if k in groups()}
    guarded(lambda: one_run(config, chosen))


if __name__ == "__main__":
    if any(a.startswith("suite=") for a in sys.argv[1:]):
        guarded(lambda: run_suite(sys.argv[1:]))
    guarded(lambda: precheck([a for a in sys.argv[1:] if not a.startswith("-")]))
    main()
