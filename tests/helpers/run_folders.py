"""A small valid run folder, and ways to spoil a copy of it."""

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import TASKS, UNET
from tiny_transformer import SCHEDULER, TINY_CLIP, TINY_VAE

from mtdiff.files.pictures import read_mask
from mtdiff.runs.adapter import identity, read_about
from mtdiff.runs.load import build_denoiser
from mtdiff.runs.model import Model
from mtdiff.types import Batch

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


def make_run(folder: Path, about: dict[str, Any] = ABOUT, noise: float = 0.0) -> Path:
    """`adapter.json` and `adapter.safetensors` on a tiny network, as a run writes them; by default of MTU.

    noise: standard deviation of what is added to tensors, as if they had been trained.
    """
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text(json.dumps(about, indent=1))
    state, rng = build_denoiser(read_about(folder)).adapter(), torch.Generator().manual_seed(0)
    tensors = {k: v + noise * torch.randn(v.shape, generator=rng) if noise else v for k, v in state.items()}
    tensors = {k: v.contiguous() for k, v in tensors.items()}
    save_file(tensors, folder / "adapter.safetensors", metadata={"about": identity(about)})
    return folder


def describe_modalities(method: dict[str, Any], reference: Sequence[str]) -> dict[str, Any]:
    """`adapter.json` of a method on tasks with a known picture, a label, or reference pictures of these names."""
    tasks = {
        "joint_masked": {"_target_": "mtdiff.tasks.joint.JointMasked"},
        "joint_label": {"_target_": "mtdiff.tasks.joint.JointLabel", "classes": ["clothing", "household"]},
        "reference": {"_target_": "mtdiff.tasks.reference.FromReference", "reference": list(reference)},
    }
    sampling = {"sampler": "ddim", "steps": 2, "guidance": {}}
    return {**ABOUT, "method": method, "task": tasks, "tasks": list(tasks), "sampling": sampling}


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


def draw_with(folder: Path, model: Model, task: str, given: Mapping[str, Image.Image], within: Any) -> Any:
    """What a model draws, and what the snippet in the card of an exported folder draws, both (H, W, 3) in [0, 1].

    given: the image and the mask that the task takes. within: pytest's monkeypatch.
    """
    snippet = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    within.chdir(folder)
    for name, file in {"image": "in.png", "mask": "mask.png"}.items():
        if name in given:
            given[name].save(file)
    exec(compile(snippet.replace("what to draw", "noto, crab"), "snippet", "exec"), {})

    painter, takes, side = model.painter, model.takes[task], model.size
    mask, source = torch.ones(1, 1, side, side), torch.zeros(1, 3, side, side)
    if takes.image:
        pixels = torch.from_numpy(np.asarray(given["image"])).float()
        holes = torch.from_numpy(read_mask(given["mask"])) if takes.mask else torch.zeros(side, side)
        mask = holes[None, None]
        source = (pixels.permute(2, 0, 1)[None] / 127.5 - 1) * (1 - mask)
    prompts, ids = ["noto, crab" if takes.prompt else ""], torch.tensor([list(model.tasks).index(task)])
    batch = Batch(source, source, mask, prompts, ids, [""], [""], [""], [0])
    noise = torch.randn(1, *painter.denoiser.backbone.latent_shape, generator=torch.Generator().manual_seed(0))
    ours = (painter.draw(batch, noise)[0].permute(1, 2, 0) + 1).numpy() / 2
    return ours, np.asarray(Image.open("out.png")).astype(float) / 255


def picture(mode: str = "RGB", side: int = 16) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


def hole(side: int = 16) -> Image.Image:
    """A mask whose upper left quarter is to be drawn."""
    pixels = np.zeros((side, side), np.uint8)
    pixels[: side // 2, : side // 2] = 255
    return Image.fromarray(pixels)
