"""Small trainings by one process and by two, for test_distributed.py; processes are forks, so nothing is loaded twice.

python tests/helpers/tiny_distributed.py OUT        -> OUT/<case>-<rank>.json and OUT/<case>.safetensors
"""

import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file
from tiny import TASKS, tiny_unet
from tiny_joint import tiny_joint, tiny_label

from baselines.dtr import DTR
from baselines.one_pic import OnePic
from mtdiff.config.settings import Training
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.module import MixtureModule
from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter, first_noise
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.training.balancing import Balancing, Uncertainty
from mtdiff.training.callbacks import EMA
from mtdiff.training.module import MultiTaskModule
from mtdiff.training.parallel import gather_tensor, is_first, split_over_ranks, trainer_arguments
from mtdiff.types import Batch

BATCH, STEPS, VALIDATION = 4, 3, 3
CASES = {  # what is trained, and in what way by two processes
    "mtu-ddp": (tiny_unet, lambda: MTU(experts=2), "ddp"),
    "mtu-fsdp": (tiny_unet, lambda: MTU(experts=2), "fsdp"),
    "dtr-fsdp": (tiny_label, DTR, "fsdp"),
    "one_pic-fsdp": (tiny_joint, lambda: OnePic(rank=2), "fsdp"),
}


class Watch(Callback):
    """Losses of every step, examples seen, and the validation's means."""

    def __init__(self) -> None:
        self.losses: list[dict[str, float]] = []
        self.seeds: list[int] = []
        self.validated: list[int] = []
        self.validation: dict[str, float] = {}

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Batch, batch_idx: int) -> None:
        self.seeds += batch.seed
        self.losses.append({k: float(v) for k, v in trainer.logged_metrics.items() if k.startswith("train/")})

    def on_validation_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Batch, *args: Any) -> None:
        self.validated += batch.seed

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        found = trainer.callback_metrics
        self.validation = {k: float(v) for k, v in found.items() if k.startswith("validation/")}


def train(case: str, out: Path, rank: int, processes: int) -> None:
    torch.set_num_threads(1)
    backbone, method, strategy = CASES[case]
    torch.manual_seed(0)
    denoiser = Denoiser(backbone(), method(), TASKS)
    denoiser.backbone.enable_gradient_checkpointing()
    settings = Training(steps=STEPS, batch_size=2 * BATCH // processes, lr=1e-2, warmup=0)
    balancing = Balancing(Uncertainty(clusters=2))
    module = MultiTaskModule(denoiser, settings, balancing=balancing, fused=True)
    tasks = {t.name: t for t in (TextToImage(), Edit(), SuperResolution(scale=2), Inpaint())}
    data = MixtureModule(EmojiSource(16), tasks, {}, 2 * BATCH // processes, 0, 0, 2, VALIDATION)
    watch = Watch()
    trainer = lightning.Trainer(
        **trainer_arguments({"accelerator": "cpu", "devices": processes, "strategy": strategy}),
        max_steps=STEPS,
        max_epochs=-1,
        gradient_clip_val=0.05,
        val_check_interval=STEPS,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        use_distributed_sampler=False,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, EMA(0.5)],
        default_root_dir=out,
    )
    trainer.fit(module, data)
    trainer.save_checkpoint(out / f"{case}-{processes}.ckpt", weights_only=True)
    adapter = {k: gather_tensor(v).cpu().contiguous() for k, v in denoiser.adapter().items()}
    examples = Batch.collate([data.test[i] for i in range(len(data.test) - 1)])  # an odd number for two processes
    painter = Painter(denoiser=denoiser, guidance={}, sampler="ddim", steps=2)
    noise = first_noise(examples, denoiser.backbone.latent_shape, 0)
    adapter["drawn"] = split_over_ranks(painter.draw, module.device)(examples, noise).contiguous()
    if is_first():
        save_file({**adapter, "s": balancing.weighting.s.detach()}, out / f"{case}-{processes}.safetensors")
    kept = {"losses": watch.losses, "seeds": watch.seeds, "validation": watch.validation, "validated": watch.validated}
    (out / f"{case}-{processes}-{rank}.json").write_text(json.dumps(kept))


def start(case: str, out: Path, rank: int, processes: int, port: int) -> None:
    if processes > 1:
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        os.environ.update({**place, "WORLD_SIZE": str(processes), "GLOO_SOCKET_IFNAME": "lo"})
    else:
        CASES[case] = (*CASES[case][:2], "auto")
    train(case, out, rank, processes)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def main(out: Path) -> None:
    fork = multiprocessing.get_context("fork")
    for case in CASES:
        for processes in (1, 2):
            port = free_port()
            started = [fork.Process(target=start, args=(case, out, rank, processes, port)) for rank in range(processes)]
            for process in started:
                process.start()
            for process in started:
                process.join()
            if any(process.exitcode for process in started):
                sys.exit(f"{case} by {processes} processes failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
