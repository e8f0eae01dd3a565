"""Tiny training runs in processes of their own, so that they can be killed for good at a chosen moment."""

import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.plugins import MixedPrecision
from tiny import TASKS, tiny_unet

from baselines.budgeted import Budgeted
from baselines.dtr import DTR
from baselines.finetune import Finetune
from baselines.ia3 import IA3
from baselines.lora_ffn import LoraFFN
from baselines.one_pic import OnePic
from mtdiff.config.settings import Evaluation, Training
from mtdiff.data.module import MixtureModule
from mtdiff.data.source import Source
from mtdiff.errors import Interrupted, RunError
from mtdiff.methods.base import Method
from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter
from mtdiff.results.record import Result, Row
from mtdiff.runs import evaluation as runs
from mtdiff.runs.execute import execute
from mtdiff.runs.experiment import Experiment
from mtdiff.runs.foreign import IDENTITY
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.training.balancing import Balancing, Uncertainty, Uniform, Weighting
from mtdiff.training.loggers import wandb_logger
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import Need, Record, Split

FORKS = multiprocessing.get_context("forkserver")
# Not this file: before Python 3.12.8 a fork server finds only what is installed, and says nothing about the rest.
# torch loads _dynamo at the first optimiser step, Lightning omegaconf when it makes a trainer.
PRELOADED = ["mtdiff.runs.execute", "mtdiff.backbones.sdxl", "baselines.one_pic", "torch._dynamo", "omegaconf"]
FORKS.set_forkserver_preload(PRELOADED)
DEFAULT: dict[str, Any] = {"steps": 12, "batch_size": 4, "lr": 1e-2, "accumulate": 2, "warmup": 3, "decay": 0.5}
DEFAULT |= {"ema_decay": 0.9, "workers": 1, "sample_every": 4, "validate_every": 3, "save_every": 3}
SHORT: dict[str, Any] = {"steps": 6, "batch_size": 2, "save_every": 2, "sample_every": None}
METHODS: dict[str, Callable[[], Method]] = {
    "mtu": lambda: MTU(experts=2),
    "lora_ffn": lambda: LoraFFN(rank=2, dropout=0.3),  # its draws come from torch's global state
    "ia3": IA3,
    "dtr": DTR,
    "one_pic": lambda: OnePic(rank=2),
    "finetune": Finetune,
    "budgeted": lambda: Budgeted(width=8),
}
VANISH = -1


class Noise(Source):
    """24 records of each kind, 16 px. deaths: number of a record -> the signal that its first use sends to the process
    that draws it, or VANISH, which removes the run's folder. What has happened is marked beside the folder."""

    def __init__(self, folder: Path, deaths: Mapping[int, int] | None = None) -> None:
        self.folder, self.deaths = folder, dict(deaths or {})

    def size(self, need: Need, split: Split) -> int:
        return 24

    def record(self, need: Need, split: Split, index: int, rng: np.random.Generator) -> Record:
        mark = self.folder.with_name(f"{self.folder.name}-record-{index}")
        if split == "train" and index in self.deaths and not mark.exists():
            mark.touch()
            if self.deaths[index] == VANISH:
                shutil.rmtree(self.folder)
            else:
                os.kill(os.getpid(), self.deaths[index])
        sys.audit("tiny.record", f"{split}/{index}")
        image, edited = torch.from_numpy(rng.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8))
        key = f"{split}/{need}/{index}"
        if need in ("edit", "removal"):
            return Record(image, "before", key, need, edited, f"do {index}", "after")
        return Record(image, f"noise {index}", key)


def experiment(
    folder: Path,
    method: str = "mtu",
    deaths: Mapping[int, int] | None = None,
    weighting: Weighting | None = None,
    pcgrad: bool = False,
    processes: int = 1,
    **training: Any,
) -> Experiment:
    """Learned uncertainties, or PCGrad."""
    torch.manual_seed(0)
    settings = Training(**{**DEFAULT, **training})
    balancing = Balancing(Uniform(), pcgrad=True) if pcgrad else Balancing(weighting or Uncertainty(clusters=3))
    denoiser = Denoiser(tiny_unet(), METHODS[method](), TASKS)
    denoiser.method.teach(denoiser.backbone, tiny_unet)
    module = MultiTaskModule(denoiser, settings, balancing=balancing)
    painter = Painter(denoiser=denoiser, guidance={}, sampler="ddim", steps=1)
    tasks = {t.name: t for t in (TextToImage(), Edit(), SuperResolution(scale=2), Inpaint())}
    data = MixtureModule(Noise(folder, deaths), tasks, None, settings.batch_size, settings.workers, 0, 2, 2)
    trainer = {"accelerator": "cpu", "devices": processes, "strategy": "auto" if processes == 1 else "ddp"}
    judge: Any = Means()
    return Experiment(
        module=module,
        painter=painter,
        data=data,
        training=settings,
        evaluation=Evaluation(baselines=False),
        trainer=trainer,
        folder=folder,
        trivial={},  # type: ignore[arg-type]
        judge=judge,
    )


class Means(torch.nn.Identity):
    """In the place of a judge; see `means`."""

    def describe(self) -> dict[str, Any]:
        return {}


def means(judge: Any, tasks: Any, batch: Any, answers: torch.Tensor, *args: Any) -> list[Row]:
    """In place of metrics: the mean of a task's answers."""
    values = {task: float(answers[batch.task == k].double().mean()) for k, task in enumerate(tasks)}
    return [Row(task, "mean", "higher", value, 2, value, value) for task, value in values.items()]


def die_at(event: str, part: str) -> None:
    """SIGKILL for this process at the first audit event of this name whose first argument holds `part`."""
    own = os.getpid()

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and part in str(arguments[0]) and os.getpid() == own:
            os.kill(own, signal.SIGKILL)

    sys.addaudithook(hook)


def with_scaler() -> None:
    """Training in this process is in float16 with a gradient scaler, which Lightning makes for GPUs alone."""
    made: Any = lightning.Trainer

    def trainer(*, plugins: list[Any], **options: Any) -> lightning.Trainer:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, growth_interval=2)
        return made(plugins=[*plugins, MixedPrecision("16-mixed", "cpu", scaler)], **options)

    lightning.Trainer = trainer  # type: ignore[misc,assignment]


def _work(
    folder: Path,
    death: tuple[str, str] | None,
    largest: int | None,
    fatal: bool,
    scaler: bool,
    place: Mapping[str, str],
    options: Any,
) -> None:
    torch.set_num_threads(1)
    os.environ.update(place)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as where a run is started by hand
    sys.stderr = (folder.with_name(f"{folder.name}.log")).open("a", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    if scaler:
        with_scaler()
    run = experiment(folder, **options)
    if death is not None:
        die_at(*death)
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if fatal else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    runs.judge_rows = means  # type: ignore[assignment]
    try:
        execute(run, Result("tiny", "tiny", "noise", list(TASKS), 0), dict.fromkeys(IDENTITY, "tiny"))
    except Interrupted as error:
        sys.exit(error.code)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def trained(
    folder: Path,
    death: tuple[str, str] | None = None,
    largest: int | None = None,
    fatal: bool = False,
    scaler: bool = False,
    **options: Any,
) -> int:
    """A run in `folder`, from its last checkpoint if there is one; the exit code, -9 after SIGKILL.

    death: see `die_at`. largest: bytes that no file may exceed, as on a full disk; fatal: the system ends the process
    that tries. What the process says is in `<folder>.log`.
    """
    folder.mkdir(exist_ok=True)
    process = FORKS.Process(target=_work, args=(folder, death, largest, fatal, scaler, {}, options))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def trained_by_two(folder: Path, deaths: Mapping[int, tuple[str, str]] | None = None, **options: Any) -> list[int]:
    """The same by two processes. deaths: of which rank. What is left when one has died is ended with SIGKILL."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": "2"}
    place["GLOO_SOCKET_IFNAME"] = "lo"
    started = []
    for rank in range(2):
        death = (deaths or {}).get(rank)
        args = (folder, death, None, False, False, {**place, "LOCAL_RANK": str(rank)}, {"processes": 2, **options})
        started.append(FORKS.Process(target=_work, args=args))
        started[-1].start()
    for rank in sorted(range(2), key=lambda rank: rank not in (deaths or {})):  # who is to die is waited for first
        started[rank].join(1 if deaths and rank not in deaths else 300)
        if started[rank].exitcode is None:
            started[rank].kill()
            started[rank].join()
    return [process.exitcode or 0 for process in started]


def _orphans(folder: Path) -> None:
    multiprocessing.set_start_method("forkserver", force=True)  # Python's choice from 3.14 on
    batches = iter(experiment(folder, workers=2).data.train_dataloader())
    next(batches)
    (folder / "workers").write_text(" ".join(str(p.pid) for p in multiprocessing.active_children()))
    os.kill(os.getpid(), signal.SIGKILL)


def orphans(folder: Path) -> list[int]:
    """Loader processes of a process that was killed."""
    folder.mkdir()
    process = FORKS.Process(target=_orphans, args=(folder,))
    process.start()
    process.join()
    return [int(number) for number in (folder / "workers").read_text().split()]


def _logged(folder: Path, steps: range) -> None:
    os.environ.update({"WANDB_MODE": "offline", "WANDB_SILENT": "true", "HOME": str(folder)})
    logger = wandb_logger(folder, {"project": "tiny", "offline": True}, patience=60)
    for step in steps:
        logger.log_metrics({"loss": 1.0}, step)
    logger.finalize("success")  # of training
    logger.close()


def logged(folder: Path, steps: range) -> None:
    """Rows for Weights & Biases, offline, as one process of a run writes them."""
    process = FORKS.Process(target=_logged, args=(folder, steps))
    process.start()
    process.join()
    assert process.exitcode == 0


def said(folder: Path) -> str:
    """What the processes of a run have said."""
    return folder.with_name(f"{folder.name}.log").read_text()
