"""What the configuration of a run must satisfy beyond names and types, said before anything is loaded.

`check_run` needs no torch. `check_constructors` does, but no weights: it is for the moment before a run folder is made.
"""

import ast
import importlib
import logging
import os
import warnings
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any, get_type_hints

from mtdiff.config.annotations import finite
from mtdiff.config.schema import check_arguments, construct, nearest, refuse
from mtdiff.config.settings import Sampling
from mtdiff.config.signatures import Argument, signature
from mtdiff.data.shares import cycle_counts
from mtdiff.errors import ConfigError, reason, shown
from mtdiff.files.writing import RANKS, check_folder

SHAPE: dict[str, Any] = {
    **dict.fromkeys(("task", "weights", "training", "sampling", "evaluation", "logger", "trainer"), dict),
    **dict.fromkeys(("method", "backbone", "data"), dict),
    **dict.fromkeys(("tasks", "packages"), list),
}
WORDS: dict[Any, str] = {dict: "a mapping", list: "a list"}
NUMBER = ast.Name("float")
ANNOTATIONS = {bool: ast.Name("bool"), int: NUMBER, float: NUMBER, str: ast.Name("str"), type(None): ast.Name("str")}
TRAINER = "lightning.pytorch.trainer.trainer.Trainer"
OURS = {
    "max_steps": "training.steps",
    "accumulate_grad_batches": "training.accumulate",
    "gradient_clip_val": "training.clip",
    "val_check_interval": "training.validate_every",
    "limit_val_batches": "training.validate_every",
    "enable_progress_bar": "progress",
    "default_root_dir": "run_dir",
    **dict.fromkeys(("logger", "callbacks"), "logger"),
    **dict.fromkeys(("max_epochs", "check_val_every_n_epoch", "num_sanity_val_steps"), "training"),
    **dict.fromkeys(("log_every_n_steps", "use_distributed_sampler", "enable_model_summary"), "training"),
}
"""Lightning's arguments that a run sets itself, and the option that does."""
TAKEN = ("accelerator", "strategy", "devices", "num_nodes", "precision", "deterministic", "benchmark", "detect_anomaly")
"""Lightning's arguments that a run takes: where and how it computes. Its length, data and files are its own."""
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
"""In the others the weights themselves are shorter or longer, and the rates chosen do not train them."""
LARGEST_SEED = 2**63
BUILT_IN = ("nano", "nano_dit", "random", "meta")
"""Weights that are no file and no download."""
SIDES = range(16, 4097, 8)


def check_shape(plain: Mapping[str, Any], known: Iterable[str]) -> None:
    """Every option at the top is known, and is a mapping or a list where one belongs."""
    names = sorted(known)
    for key in plain:
        if key not in names:
            raise ConfigError(f"{key}: no such option{nearest(key, names)}; there are {', '.join(names)}")
    for key, kind in SHAPE.items():
        if key not in plain:
            raise ConfigError(f"{key}: has to be given, {WORDS[kind]}")
        if not isinstance(plain[key], kind):
            raise ConfigError(f"{key}={shown(plain[key])}: expected {WORDS[kind]}")


def check_run(plain: Mapping[str, Any], logger: Mapping[str, Any]) -> None:
    """Values that belong to no constructor: tasks, weights, seed, sizes, folder, logger (as its defaults), trainer."""
    check_tasks(plain["tasks"], plain["task"])
    check_weights(plain["weights"], plain["tasks"], plain["task"])
    seed = plain["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < LARGEST_SEED:
        raise ConfigError(f"seed={shown(seed)}: expected a whole number of at least 0 and less than 2**63")
    for switch in ("progress", "report"):
        if not isinstance(plain[switch], bool):
            raise ConfigError(f"{switch}={shown(plain[switch])}: expected true or false")
    for name in plain["sampling"].get("guidance", {}):
        if name not in plain["task"]:
            raise refuse("sampling.guidance", name, plain["task"])
    check_sizes(plain)
    if plain["data"].get("buckets") is not None and plain["training"].get("cache") not in (None, "auto"):
        cache = shown(plain["training"]["cache"])
        raise ConfigError(f"training.cache={cache}: expected null with data.buckets, since its latents have one shape")
    check_place(plain["name"], plain["run_dir"])
    for package in plain["packages"]:
        if not isinstance(package, str) or not package.isidentifier():
            raise ConfigError(f"packages=[{shown(package)}]: expected names of Python packages")
    check_logger(plain["logger"], logger)
    check_trainer(plain["trainer"])
    check_launcher(plain["trainer"], os.environ)
    check_speed(plain["speed"], plain["trainer"])
    check_drawing(plain)
    if plain["training"].get("optimizer") == "adamw_8bit" and plain["trainer"].get("accelerator") == "cpu":
        raise ConfigError("training.optimizer=adamw_8bit: expected trainer.accelerator=gpu, or adamw on a CPU")


def check_tasks(tasks: list[Any], known: Mapping[str, Any]) -> None:
    if not tasks:
        raise ConfigError(f"tasks=[]: expected at least one of {', '.join(known)}")
    for i, name in enumerate(tasks):
        if not isinstance(name, str) or name not in known:
            raise refuse("tasks", name, known)
        if name in tasks[:i]:
            raise ConfigError(f"tasks={shown(tasks)}: {name!r} comes twice, expected each task once")
        if name.casefold() in (other.casefold() for other in tasks[:i]):  # their files are one where case is nothing
            raise ConfigError(f"tasks={shown(tasks)}: {name!r} differs from another in upper and lower case alone")
    for name, node in known.items():
        if not isinstance(node, Mapping) or "_target_" not in node:
            raise ConfigError(f"task.{name}={shown(node)}: expected a mapping with the _target_ of a task")


def check_weights(weights: Mapping[str, Any], tasks: list[str], known: Mapping[str, Any]) -> None:
    """Shares of the run's tasks are positive and form a short cycle; those of other tasks wait for another run."""
    for name, weight in weights.items():
        if name not in known:
            raise refuse("weights", name, known)
        number = isinstance(weight, int | float) and not isinstance(weight, bool) and finite(weight)
        if not number or (name in tasks and weight <= 0):
            without = "; leave the task out with tasks=[...]" if weight == 0 else ""
            raise ConfigError(f"weights.{name}={shown(weight)}: expected a finite number above 0{without}")
    try:
        cycle_counts({name: weights.get(name, 1.0) for name in tasks})
    except ValueError as error:
        raise ConfigError(str(error)) from None


def list_compared_tasks(plain: Mapping[str, Any]) -> list[str]:
    """The tasks of the comparison that a run is part of, in their order: those that have shares, and the run's own.

    Others that the configuration knows make the run no other experiment.
    """
    return [name for name in plain["task"] if name in plain["weights"] or name in plain["tasks"]]


def sides(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Sides of the pictures of backbone and data in pixels, where the configuration gives them."""
    return {f"{k}.size": plain[k]["size"] for k in ("backbone", "data") if plain[k].get("size") is not None}


def check_sizes(plain: Mapping[str, Any]) -> None:
    for key, side in sides(plain).items():
        if side not in SIDES:
            raise ConfigError(f"{key}={side}: expected a multiple of {SIDES.step} from {SIDES[0]} to {SIDES[-1]}")


def check_place(name: Any, run_dir: Any) -> None:
    if name is not None and (not isinstance(name, str | int) or PurePath(str(name)).name != str(name)):
        raise ConfigError(f"name={shown(name)}: expected the name of one folder under runs/")
    if run_dir is not None:
        if not isinstance(run_dir, str) or not run_dir:
            raise ConfigError(f"run_dir={shown(run_dir)}: expected a path")
        check_folder("run_dir", run_dir)


def check_logger(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Values are of the kind of their defaults; null stands for a text."""
    texts = ast.parse("list[str]", mode="eval").body
    arguments = [
        Argument(k, texts if isinstance(v, list) else ANNOTATIONS[type(v)], ast.Constant(None))
        for k, v in defaults.items()
    ]
    check_arguments("logger", arguments, {k: v for k, v in given.items() if v is not None or k not in defaults})


def check_trainer(trainer: Mapping[str, Any]) -> None:
    for key, value in trainer.items():
        if key in OURS:
            raise ConfigError(f"trainer.{key}={shown(value)}: set by the run itself, from {OURS[key]}")
    arguments = [a for a in signature(TRAINER) if a.name in TAKEN]
    check_arguments("trainer", arguments, {k: v for k, v in trainer.items() if k != "precision"})
    precision, accelerator = trainer.get("precision", PRECISIONS[0]), trainer.get("accelerator")
    if precision not in PRECISIONS:
        raise refuse("trainer.precision", precision, PRECISIONS)
    if precision == "16-mixed" and accelerator == "cpu":
        raise ConfigError("trainer.precision=16-mixed: expected bf16-mixed or 32-true with trainer.accelerator=cpu")


def check_launcher(trainer: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """Refuse what a launcher of several processes has left in the environment of a run of one.

    Such a process would take itself for another rank, and leave what the first one writes to nobody.
    """
    if (trainer.get("devices", 1), trainer.get("num_nodes", 1)) != (1, 1):
        return
    interactive = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")  # where Lightning looks no further
    expected = {**dict.fromkeys(RANKS, "0"), **({} if interactive else {"SLURM_NTASKS": "1"})}
    for name, value in expected.items():
        if environment.get(name, value) != value:
            several = "a launcher of several processes, and this run has one (trainer.devices=1)"
            raise ConfigError(f"{name}={shown(environment[name])}: is of {several}; unset {name}")


def check_drawing(plain: Mapping[str, Any]) -> None:
    """A compiled network does not ask its modules one by one, so that none of them can be skipped."""
    if plain["speed"].get("compile") and plain["sampling"].get("inherit") is not None:
        raise ConfigError("speed.compile=true: expected false with sampling.inherit")


def find_levels(backbone: Mapping[str, Any]) -> tuple[str, ...]:
    """The levels of inheritance that a configured backbone names, before it is loaded. Imports its module."""
    module, _, name = str(backbone["_target_"]).rpartition(".")
    made = getattr(importlib.import_module(module), name)
    found = made if isinstance(made, type) else get_type_hints(made).get("return")
    return getattr(found, "levels", ())


def check_levels(backbone: Mapping[str, Any], inherit: Mapping[str, Any] | None) -> None:
    """Refuse inheritance that a configured backbone does not name, before it is loaded. Imports its module."""
    if inherit is None:
        return
    levels, name = find_levels(backbone), str(backbone["_target_"]).rpartition(".")[2]
    if not levels:
        raise ConfigError(f"sampling.inherit={shown(inherit)}: expected null, since {name} names nothing to inherit")
    if inherit["level"] not in levels:
        raise refuse("sampling.inherit.level", inherit["level"], levels)


def check_method(method: Any, backbone: Mapping[str, Any], sampling: Mapping[str, Any]) -> None:
    """Refuse sampling that a method has no form for; and let it refuse a base by its shapes, before weights are read:
    those of others' files are not known yet.
    """
    from mtdiff.methods.base import Method
    from mtdiff.model.sampling import check_mixing

    if method.mixes:
        chosen = Sampling(**sampling)
        check_mixing(chosen.sampler, inherit=chosen.inherit, switch=chosen.switch)
    if type(method).check is not Method.check and backbone.get("weights") in BUILT_IN:
        method.check(construct({**backbone, "weights": "meta"}))


def check_reads(method: Any, tasks: Iterable[Any]) -> None:
    """Refuse a method that reads what no task of the run gives."""
    from mtdiff.types import REFERENCE

    given = {REFERENCE + name for task in tasks for name in task.shows}
    for name in method.reads:
        if name not in given:
            there = ", ".join(sorted(given)) or "none"
            asked = "as tasks=[reference] task.reference.reference=[...]"
            raise ConfigError(f"method: reads {name}, and the tasks of the run give {there}; ask for it {asked}")


def check_speed(speed: Mapping[str, Any], trainer: Mapping[str, Any]) -> None:
    """A fused optimiser scales float16's gradients back by itself, too late for clipping."""
    if speed.get("fused") and str(trainer.get("precision")) in ("16-mixed", "16"):
        raise ConfigError("speed.fused=true: expected false, or trainer.precision=bf16-mixed in place of 16-mixed")


def quiet_libraries() -> None:
    """Silence what libraries say of themselves on the terminal: advertisements, what a user of theirs should do."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)
    for message in (r".*treespec, LeafSpec.*", r".*module\(s\) in eval mode.*", r".*does not have many workers.*"):
        warnings.filterwarnings("ignore", message=message)


def check_constructors(plain: Mapping[str, Any]) -> None:
    """Construct what needs no weights, and drop it: method, balancing, tasks, Lightning's Trainer. Imports torch."""
    quiet_libraries()
    if len(set(sides(plain).values())) > 1:
        both = " and ".join(f"{key}={side}" for key, side in sides(plain).items())
        raise ConfigError(f"{both}: expected the same side for both")
    import lightning
    import torch
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    from mtdiff.model.painter import check_budget
    from mtdiff.training.parallel import trainer_arguments

    check_levels(plain["backbone"], plain["sampling"].get("inherit"))
    construct(plain["balancing"])
    tasks, method = [construct(plain["task"][name]) for name in plain["tasks"]], construct(plain["method"])
    check_method(method, plain["backbone"], plain["sampling"])
    check_budget(method, plain["sampling"].get("budget"))
    check_reads(method, tasks)
    accelerator, precision = plain["trainer"].get("accelerator", "auto"), plain["trainer"].get("precision")
    if precision == "16-mixed" and accelerator == "auto" and not torch.accelerator.is_available():
        raise ConfigError("trainer.precision=16-mixed: expected bf16-mixed or 32-true where there is no GPU")
    try:
        lightning.Trainer(
            **trainer_arguments(plain["trainer"]), logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
    except (ValueError, TypeError, MisconfigurationException) as error:
        raise ConfigError(f"trainer={shown(dict(plain['trainer']))}: {reason(error)}") from None
