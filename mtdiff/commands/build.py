"""The objects of a run, from its checked configuration; nothing below sees the configuration itself."""

import hashlib
import netrc
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from mtdiff.config.schema import construct, refuse
from mtdiff.config.settings import Settings
from mtdiff.config.signatures import PACKAGES
from mtdiff.results.phases import Phases
from mtdiff.runs.adapter import check_init, check_start, read_light, read_teacher

WANDB_MODES = {"online": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}

if TYPE_CHECKING:
    from mtdiff.backbones.base import Backbone
    from mtdiff.data.source import Source
    from mtdiff.methods.teaching import Teaching
    from mtdiff.metrics.quality import Judge
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.runs.experiment import Experiment
    from mtdiff.runs.judging import Trivial
    from mtdiff.training.encodings import CachedEncoder


def build_experiment(
    plain: Mapping[str, Any], folder: Path, trivial: "Trivial", phases: Phases | None = None
) -> "Experiment":
    """The experiment that a checked configuration describes. trivial: answers that need no model."""
    from mtdiff.data.module import MixtureModule
    from mtdiff.runs.experiment import Experiment
    from mtdiff.runs.load import make_painter
    from mtdiff.training.module import MultiTaskModule

    settings = Settings.read(plain)
    training, evaluation = settings.training, settings.evaluation
    source = construct(plain["data"])
    found = find_task_options(plain, source)
    tasks = {name: construct({**plain["task"][name], **found.get(name, {})}) for name in plain["tasks"]}
    construct(plain["method"]).check_numbers({k: n for task in tasks.values() for k, n in task.largest.items()})
    data = MixtureModule(
        source,
        tasks,
        {name: plain["weights"].get(name, 1.0) for name in tasks},
        batch_size=training.batch_size,
        workers=training.workers,
        seed=plain["seed"],
        test_per_task=evaluation.per_task,
        validation_per_task=evaluation.validation_per_task,
        test_split=evaluation.split,
        temperature=training.temperature,
    )
    data.probe()
    denoiser, untouched, init = build_denoisers(plain, settings, found)
    module = MultiTaskModule(
        denoiser,
        training,
        seed=plain["seed"],
        balancing=construct(plain["balancing"]),
        cache=open_cache(training.cache, denoiser.backbone, plain),
        fused=settings.speed.fused,
    )
    return Experiment(
        module=module,
        painter=make_painter(denoiser, settings.sampling, read_other(plain, settings)),
        data=data,
        training=training,
        evaluation=evaluation,
        trainer=plain["trainer"],
        folder=folder,
        trivial=trivial,
        judge=build_judge(plain, data.source),
        untouched=untouched,
        wandb=read_wandb_options(plain, folder),
        phases=phases or Phases(shown=False),
        patience=float(plain["logger"]["patience"]),
        base=lambda: construct(plain["backbone"]),
        found=found,
        init=init,
        teacher=describe_teacher(plain),
    )


def build_judge(plain: Mapping[str, Any], source: "Source") -> "Judge":
    """What judges the run, with the data's galleries at hand."""
    judge: Judge = construct(plain["metrics"]).judge()
    judge.look_at(source.gallery)
    return judge


def find_task_options(plain: Mapping[str, Any], source: "Source") -> dict[str, dict[str, Any]]:
    """Options of the run's tasks that follow from its data, by task; a task that needs none is left out."""
    made = ((name, construct(plain["task"][name])) for name in plain["tasks"])
    read = {name: dict(task.read_data(source.list_classes)) for name, task in made}
    return {name: options for name, options in read.items() if options}


def build_denoisers(
    plain: Mapping[str, Any], settings: Settings, found: Mapping[str, Mapping[str, Any]]
) -> "tuple[Denoiser, Denoiser | None, dict[str, Any] | None]":
    """The base with the method on it, ready to be trained; the untouched base, or None without baselines; and what is
    to be said of the run whose adapter it goes on with, or None. found: options of tasks that follow from the data.
    """
    import torch

    from mtdiff.methods.untouched import Untouched
    from mtdiff.model.denoiser import Denoiser
    from mtdiff.runs.continuation import continue_run
    from mtdiff.runs.load import load_adapter
    from mtdiff.training.memory import use_channels_last

    torch.manual_seed(plain["seed"])  # what a method draws at the start
    denoiser = Denoiser(construct(plain["backbone"]), construct(plain["method"]), plain["tasks"])
    if (start := check_start(plain)) is not None:
        load_adapter(denoiser, start)
    init = None
    if (about := check_init(plain)) is not None:
        init = continue_run(denoiser, about, plain["backbone"], found)
    denoiser.method.teach(denoiser.backbone, lambda: construct(plain["backbone"]), find_teacher(plain))
    baselines, speed = settings.evaluation.baselines, settings.speed
    untouched = Denoiser(construct(plain["backbone"]), Untouched(), plain["tasks"]) if baselines else None
    if settings.training.gradient_checkpointing:
        denoiser.backbone.enable_gradient_checkpointing()
    if speed.channels_last:
        use_channels_last(denoiser.backbone)
    if speed.compile:
        denoiser.backbone.compile_denoiser(in_parts=plain["trainer"].get("strategy") == "fsdp")
    return denoiser, untouched, init


def find_teacher(plain: Mapping[str, Any]) -> "Callable[[], Teaching] | None":
    """What reads the network of the run that `method.teacher` names; None where it names none."""
    about = read_teacher(plain)
    if about is None:
        return None
    from mtdiff.runs.load import build_teacher

    return lambda: build_teacher(about, construct(plain["backbone"]), plain["tasks"])


def read_other(plain: Mapping[str, Any], settings: Settings) -> "Denoiser | None":
    """The model that `sampling.switch` names, or None."""
    base = plain["backbone"].get("weights")
    about = read_light(settings.sampling.switch, plain, (*PACKAGES, *plain["packages"]), base)
    if about is None:
        return None
    from mtdiff.runs.load import build_light

    return build_light(about, construct(plain["backbone"]))


def describe_teacher(plain: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `result.json` says of the run that `method.teacher` names; None where it names none."""
    if (about := read_teacher(plain)) is None:
        return None
    return {"run": about.path.parent.name, "adapter": hashlib.sha256(about.weights.read_bytes()).hexdigest()}


def open_cache(where: str | None, backbone: "Backbone", plain: Mapping[str, Any]) -> "CachedEncoder | None":
    """Encodings that are looked up in training, or None. The backbone is still on the CPU, as when they were made.

    where: a folder; `auto`: the user's cache, where a CPU trains on pictures of one shape; a GPU encodes fast enough.
    """
    if where is None:
        return None
    import torch

    from mtdiff.training.cache import PRECISIONS, Cache, open_user_cache
    from mtdiff.training.encodings import CachedEncoder

    precision, accelerator = str(plain["trainer"].get("precision")), plain["trainer"].get("accelerator")
    if where != "auto":
        return CachedEncoder(backbone, Cache(where, backbone, precision))
    elsewhere = accelerator not in ("cpu", "auto", None) or (accelerator != "cpu" and torch.accelerator.is_available())
    if elsewhere or precision not in PRECISIONS or plain["data"].get("buckets") is not None:
        return None
    cache = open_user_cache(backbone, precision)
    return None if cache is None else CachedEncoder(backbone, cache, grows=True)


def find_wandb_mode(environment: Mapping[str, str]) -> str:
    """What WANDB_MODE says, or else online where there is a key for its host, and offline without one."""
    if mode := environment.get("WANDB_MODE"):
        if mode not in WANDB_MODES:
            raise refuse("WANDB_MODE", mode, WANDB_MODES)
        return WANDB_MODES[mode]
    return "online" if environment.get("WANDB_API_KEY") or has_netrc_entry(environment) else "offline"


def has_netrc_entry(environment: Mapping[str, str]) -> bool:
    """Whether the user's `.netrc` has a key for the host of Weights & Biases; others' do not count."""
    host = urlsplit(environment.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        path = Path(environment["NETRC"]) if environment.get("NETRC") else Path.home() / ".netrc"
        found = netrc.netrc(path).hosts.get(host)
    except (OSError, RuntimeError, netrc.NetrcParseError, UnicodeDecodeError):  # none, no home, not one
        return False
    return found is not None and bool(found[2])


def read_wandb_options(plain: Mapping[str, Any], folder: Path) -> dict[str, Any] | None:
    """What Weights & Biases is started with, or None where it is not asked for, or disabled."""
    logger = plain["logger"]
    mode = find_wandb_mode(os.environ) if logger["wandb"] else "disabled"
    if mode == "disabled":
        return None
    tags = [plain["method"]["_target_"].rpartition(".")[2], *plain["tasks"], *logger["tags"]]
    return {
        "project": logger["project"],
        "group": logger["group"],
        "tags": tags,
        "name": folder.name,
        "offline": mode == "offline",
        "config": dict(plain),
    }
