"""Tiny training runs in processes of their own, so that they can be killed for good at a chosen moment."""

import multiprocessing
import os
import resource
import shutil
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import TASKS, tiny_unet

from baselines.lora_ffn import LoraFFN
from mtdiff.adapter import IDENTITY
from mtdiff.balancing import Balancing, Uncertainty, Weighting
from mtdiff.data.module import MixtureModule
from mtdiff.data.source import Need, Source
from mtdiff.denoiser import Denoiser
from mtdiff.experiment import Experiment, save_adapter, train
from mtdiff.folder import Interrupted, RunError, Signals
from mtdiff.methods.mtu import MTU
from mtdiff.module import MultiTaskModule
from mtdiff.settings import Evaluation, Training
from mtdiff.tasks import Edit, Inpaint, SuperResolution, TextToImage
from mtdiff.types import Record, Split

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tiny_runs"])
DEFAULT: dict[str, Any] = {"steps": 12, "batch_size": 4, "lr": 1e-2, "accumulate": 2, "warmup": 3, "decay": 0.5}
DEFAULT |= {"ema_decay": 0.9, "workers": 1, "sample_every": 4, "validate_every": 3, "save_every": 3}
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
    **training: Any,
) -> Experiment:
    """MTU under learned uncertainties, or LoRA with dropout, whose draws come from torch's global state."""
    torch.manual_seed(0)
    made = MTU(experts=2) if method == "mtu" else LoraFFN(rank=2, dropout=0.3)
    settings = Training(**{**DEFAULT, **training})
    optimizer = {k: getattr(settings, k) for k in ("lr", "warmup", "decay", "steps")}
    balancing = Balancing(weighting or Uncertainty(clusters=3))
    module = MultiTaskModule(Denoiser(tiny_unet(), made, TASKS), optimizer, {}, "ddim", 1, balancing=balancing)
    tasks = {t.name: t for t in (TextToImage(), Edit(), SuperResolution(scale=2), Inpaint())}
    data = MixtureModule(Noise(folder, deaths), tasks, None, settings.batch_size, settings.workers, 0, 2, 2)
    trainer = {"accelerator": "cpu", "devices": 1}
    nobody: Any = None  # nothing is judged here
    return Experiment(module, data, settings, Evaluation(), trainer, folder, nobody, nobody, progress=False)


def die_at(event: str, part: str) -> None:
    """SIGKILL for this process at the first audit event of this name whose first argument holds `part`."""
    own = os.getpid()

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == event and part in str(arguments[0]) and os.getpid() == own:
            os.kill(own, signal.SIGKILL)

    sys.addaudithook(hook)


def _work(folder: Path, death: tuple[str, str] | None, largest: int | None, fatal: bool, options: Any) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for the loader's workers, as where a run is started by hand
    sys.stderr = (folder.with_name(f"{folder.name}.log")).open("a", buffering=1)
    os.dup2(sys.stderr.fileno(), 2)
    run = experiment(folder, **options)
    if death is not None:
        die_at(*death)
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if fatal else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    try:
        with Signals() as signals:
            train(run, signals)
            save_adapter(run, dict.fromkeys(IDENTITY, "tiny"))
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
    **options: Any,
) -> int:
    """Train in `folder`, from its last checkpoint if there is one; the exit code, -9 after SIGKILL.

    death: see `die_at`. largest: bytes that no file may exceed, as on a full disk; fatal: the system ends the process
    that tries. What the process says is in `<folder>.log`.
    """
    folder.mkdir(exist_ok=True)
    process = FORKS.Process(target=_work, args=(folder, death, largest, fatal, options))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def said(folder: Path) -> str:
    """What the processes of a run have said."""
    return folder.with_name(f"{folder.name}.log").read_text()
