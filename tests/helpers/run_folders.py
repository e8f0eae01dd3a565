"""A small valid run folder, and ways to spoil a copy of it."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import TASKS, UNET
from tiny_transformer import SCHEDULER, TINY_CLIP, TINY_VAE

from mtdiff.runs.adapter import identity, read_about
from mtdiff.runs.load import build_denoiser

Change = Callable[[dict[str, Any]], Any]
ABOUT: dict[str, Any] = {
    "method": {"_target_": "mtdiff.methods.mtu.MTU", "experts": 2, "embedding_width": 8, "router_width": 8},
    "backbone": {
        "_target_": "mtdiff.backbones.stable_diffusion.load",
        "weights": "random",
        "size": 16,
        "architecture": {"unet": UNET, "vae": TINY_VAE, "text_encoder": TINY_CLIP, "scheduler": SCHEDULER},
    },
    "task": {
        "text_to_image": {"_target_": "mtdiff.tasks.text_to_image.TextToImage"},
        "edit": {"_target_": "mtdiff.tasks.edit.Edit"},
        "super_resolution": {"_target_": "mtdiff.tasks.super_resolution.SuperResolution", "scale": 4},
        "inpaint": {"_target_": "mtdiff.tasks.inpaint.Inpaint", "removal": 0.5},
    },
    "tasks": list(TASKS),
    "sampling": {"sampler": "ddim", "steps": 2, "guidance": {"edit": {"image": 1.5, "text": 3.0}}},
    "seed": 0,
    "schema": 1,
}


def make_run(folder: Path) -> Path:
    """`adapter.json` and `adapter.safetensors` of MTU on a tiny network, as a run writes them."""
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text(json.dumps(ABOUT, indent=1))
    state = build_denoiser(read_about(folder)).adapter()
    tensors = {k: v.contiguous() for k, v in state.items()}
    save_file(tensors, folder / "adapter.safetensors", metadata={"about": identity(ABOUT)})
    return folder


def copied(run: Path, to: Path) -> Path:
    return Path(shutil.copytree(run, to))


def about_changed(run: Path, to: Path, change: Change) -> Path:
    """A copy whose adapter.json is changed: in place, or into what `change` returns where that is not None."""
    about = copy.deepcopy(ABOUT)
    returned = change(about)
    folder = copied(run, to)
    (folder / "adapter.json").write_text(json.dumps(about if returned is None else returned))
    return folder


def tensors_changed(run: Path, to: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    folder = copied(run, to)
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors", metadata={"about": identity(ABOUT)})
    return folder


def picture(mode: str = "RGB", side: int = 16) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def hole(side: int = 16) -> Image.Image:
    """A mask whose upper left quarter is to be drawn."""
    pixels = np.zeros((side, side), np.uint8)
    pixels[: side // 2, : side // 2] = 255
    return Image.fromarray(pixels)
