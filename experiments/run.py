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
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mtdiff.config import PACKAGES, ConfigError, check, check_arguments, construct, nearest, refuse, signature
from mtdiff.files import check_folder, check_links, read_yaml, shown
from mtdiff.folder import Interrupted, RunError, first_process
from mtdiff.precheck import check_constructors, check_run, check_shape
from mtdiff.suites import IN_USE, InUse, Planned, alone, budgeted, distinct, key, load, run_all, without

CONFIGS = Path(__file__).parent / "configs"
SECTIONS = {"training": "Training", "speed": "Speed", "sampling": "Sampling", "evaluation": "Evaluation"}
NOT_IDENTITY = ("name", "run_dir", "logger", "progress", "packages")


# 1. Configuration: composed and checked before torch is imported


def groups() -> dict[str, list[str]]:
    folders = (d for d in CONFIGS.iterdir() if d.is_dir() and d.name != "suite")
    return {d.name: sorted(p.stem for p in d.glob("*.yaml")) for d in folders}


def composed(overrides: list[str], with_hydra: bool = False) -> DictConfig:
    """The configuration of one run, or a ConfigError that names the mistaken override."""
    try:
        config = compose("config", overrides, return_hydra_config=with_hydra)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explained(overrides, error) from None
    check_rate(overrides)
    return config


def check_rate(overrides: list[str]) -> None:
    """ConfigError for a learning rate of no such name: the group is optional, so Hydra would go on without."""
    known = GlobalHydra.instance().config_loader().get_group_options("rate")
    for override in OverridesParser.create().parse_overrides(overrides):
        if override.key_or_group == "rate" and not override.is_delete() and override.value() not in known:
            raise refuse("rate", override.value(), known)


def explained(overrides: list[str], error: Exception) -> ConfigError:
    """Find the override that does not fit and say what would."""
    options, chosen = groups(), []
    parser = OverridesParser.create()
    for text in overrides:
        override = parser.parse_override(text)
        group, value = override.key_or_group, override.value()
        if group in options and override.is_delete():
            return ConfigError(f"{group}: has to be given, one of {', '.join(options[group])}")
        if group in options and value not in options[group]:
            return refuse(group, value, options[group])
        if group in options:
            chosen.append(text)
    known = OmegaConf.to_container(compose("config", chosen))
    for text in overrides:
        override = parser.parse_override(text)
        if override.key_or_group in options or override.is_add():
            continue
        for leaf in leaves(override.key_or_group, override.value()):
            missing = unknown_key(leaf, known)
            if missing is not None:
                there = ", ".join(missing)
                return ConfigError(f"{leaf}: no such option{nearest(leaf, missing)}; there are {there}")
    return ConfigError(str(error).splitlines()[0])


def leaves(key: str, value: Any) -> list[str]:
    """Dotted keys that an override sets: one, or those of the mapping that it gives."""
    if not isinstance(value, Mapping):
        return [key]
    return [leaf for name, child in value.items() for leaf in leaves(f"{key}.{name}", child)]


def unknown_key(key: str, known: Any) -> list[str] | None:
    """What the configuration has where a part of a dotted key is missing; None where the key is known."""
    prefix = ""
    for name in key.split("."):
        if not isinstance(known, Mapping) or name not in known:
            return [f"{prefix}{a}" for a in sorted(map(str, known or [])) if a not in ("hydra", "packages")]
        prefix, known = f"{prefix}{name}.", known[name]
    return None


def checked(config: DictConfig) -> dict[str, Any]:
    """The resolved configuration after every check that needs no torch."""
    try:
        plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    own: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(CONFIGS / "config.yaml"))  # type: ignore[assignment]
    check_shape(plain, {*own, *groups(), *SECTIONS} - {"defaults", "hydra"})
    for section, cls in SECTIONS.items():
        given = plain[section]
        check_arguments(section, list(signature(f"mtdiff.settings.{cls}")), given)
    check(plain, packages=(*PACKAGES, *plain["packages"]))
    check_run(plain, own["logger"])
    return plain


def sections(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The light settings objects, whose constructors check values."""
    from mtdiff import settings

    made: dict[str, Any] = {name: getattr(settings, cls)(**plain[name]) for name, cls in SECTIONS.items()}
    return {**made, "metrics": construct(plain["metrics"])}


# 2. Construction


def experiment(plain: Mapping[str, Any], folder: Path) -> tuple[Any, Any]:
    """The Experiment and the untouched base (for comparison), built from a checked configuration."""
    from baselines.trivial import trivial
    from mtdiff.conditioning import Dropout
    from mtdiff.data.module import MixtureModule
    from mtdiff.denoiser import Denoiser
    from mtdiff.experiment import Experiment
    from mtdiff.memory import channels_last
    from mtdiff.methods.untouched import Untouched
    from mtdiff.module import MultiTaskModule
    from mtdiff.sampling import Guidance

    settings = sections(plain)
    training, sampling, evaluation = settings["training"], settings["sampling"], settings["evaluation"]
    judge = settings["metrics"].judge()
    tasks = {name: construct(plain["task"][name]) for name in plain["tasks"]}
    data = MixtureModule(
        construct(plain["data"]),
        tasks,
        {name: plain["weights"].get(name, 1.0) for name in tasks},
        training.batch_size,
        training.workers,
        plain["seed"],
        evaluation.per_task,
        evaluation.validation_per_task,
        evaluation.split,
    )
    import torch

    torch.manual_seed(plain["seed"])  # what a method draws at the start
    denoiser = Denoiser(construct(plain["backbone"]), construct(plain["method"]), list(tasks))
    untouched = Denoiser(construct(plain["backbone"]), Untouched(), list(tasks)) if evaluation.baselines else None
    if training.gradient_checkpointing:
        denoiser.backbone.enable_gradient_checkpointing()
    speed = settings["speed"]
    if speed.channels_last:
        channels_last(denoiser.backbone)
    if speed.compile:
        denoiser.backbone.compile_denoiser(in_parts=plain["trainer"].get("strategy") == "fsdp")
    optimizer = {"lr": training.lr, "weight_decay": training.weight_decay, "betas": tuple(training.betas)}
    optimizer |= {"name": training.optimizer, "fused": speed.fused}
    module = MultiTaskModule(
        denoiser,
        {**optimizer, "steps": training.steps, "warmup": training.warmup, "decay": training.decay},
        {task: Guidance(**scales) for task, scales in sampling.guidance.items()},
        sampling.sampler,
        sampling.steps,
        Dropout(**training.dropout),
        plain["seed"],
        construct(plain["balancing"]),
        cached(training.cache, denoiser.backbone, plain),
    )
    wandb = wandb_options(plain, folder) if plain["logger"]["wandb"] else None
    made = Experiment(
        module,
        data,
        training,
        evaluation,
        plain["trainer"],
        folder,
        trivial,
        judge,
        wandb,
        bool(plain["progress"]),
        float(plain["logger"]["patience"]),
        lambda: construct(plain["backbone"]),
    )
    return made, untouched


def cached(folder: str | None, backbone: Any, plain: Mapping[str, Any]) -> Any:
    """Encodings that are looked up in training, or None. The backbone is still on the CPU, as when they were made."""
    if folder is None:
        return None
    from mtdiff.data.cache import Cache
    from mtdiff.data.encodings import CachedEncoder

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


# 3. The run folder


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
    from mtdiff.results import write_atomically

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
    from mtdiff.report import announce

    if (folder / "result.json").exists():
        from mtdiff.results import Result

        earlier = Result.load(folder / "result.json")
        if earlier.status == "complete":
            announce(earlier, folder, "complete already")
            return
    check_constructors(plain)
    made, untouched = experiment(plain, folder)
    if first_process():
        claim(folder, plain)  # not earlier: a constructor may yet refuse an option
    from mtdiff.experiment import execute
    from mtdiff.metrics.cost import run_costs
    from mtdiff.metrics.flops import has_source
    from mtdiff.results import Result, provenance

    sources = [has_source(task) for task in made.data.tasks.values()]
    params, cost = run_costs(made.module.denoiser, len(plain["task"]), sources)
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
    result = execute(made, start, about, untouched)
    if first_process():
        announce(result, folder, "done")
        for name, count in made.data.skipped().items():
            print(f"- data: {count} unreadable rows of {name} were replaced")
        if made.module.cache is not None:
            print(f"- {made.module.cache.report()}")


# 4. The command line


def single_runs(overrides: list[str]) -> list[list[str]]:
    """Every run of a sweep, for checking before the first one starts."""
    runs: list[list[str]] = [[]]
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException:
            raise ConfigError(f"{text}: not an override; expected key=value") from None
        if not override.key_or_group:
            raise ConfigError(f"{text}: not an override; expected key=value")
        if override.is_sweep_override():
            values = [f"{override.key_or_group}={v}" for v in override.sweep_string_iterator()]
        else:
            values = [override.input_line]
        runs = [[*run, str(value)] for run in runs for value in values]
    return runs


def guarded(action: Callable[[], None]) -> None:
    """A user's mistake ends in one line and exit code 2."""
    try:
        action()
    except InUse as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(IN_USE)
    except ValueError as error:
        print(f"error: {shown(error, 1000)}", file=sys.stderr)
        sys.exit(2)
    except RunError as error:
        print(f"error: {shown(error, 1000)}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as error:
        print(shown(error, 1000), file=sys.stderr)
        sys.exit(error.code)


def precheck(overrides: list[str]) -> None:
    """Check every run of a sweep before the first one starts."""
    with initialize_config_dir(str(CONFIGS.resolve()), version_base=None):
        given = single_runs(overrides)
        runs = [checked(composed(run)) for run in given]
    for run, plain in zip(given, runs, strict=True):
        sections(plain)
        refuse_idle_weights(run, plain)
    if len(runs) > 1:
        for plain in runs:
            check_constructors(plain)


def refuse_idle_weights(overrides: list[str], plain: Mapping[str, Any]) -> None:
    """A share given for a task that the run leaves out would have no effect."""
    for override in OverridesParser.create().parse_overrides(overrides):
        section, _, task = override.key_or_group.partition(".")
        if section == "weights" and task and task not in plain["tasks"]:
            raise refuse(override.key_or_group, override.value(), [f"{section}.{name}" for name in plain["tasks"]])


# 5. Suites


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
