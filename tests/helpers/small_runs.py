"""Finished runs of two tasks on a tiny network whose pictures are large enough for every metric."""

import json
from pathlib import Path
from typing import Any

import torch
from run_folders import ABOUT
from safetensors.torch import save_file

from mtdiff.runs.adapter import identity, read_about
from mtdiff.runs.load import build_denoiser

SIDE = 32
SAMPLING = {"sampler": "ddim", "steps": 4, "guidance": {"edit": {"image": 1.5, "text": 3.0}}}


def save_small_run(folder: Path, method: dict[str, Any], seed: int = 0) -> Path:
    """A run folder whose weights are moved off their start, by the seed."""
    backbone = {**ABOUT["backbone"], "size": SIDE}
    tasks = {"tasks": ["edit", "super_resolution"], "sampling": SAMPLING}
    about = {**ABOUT, **tasks, "method": method, "backbone": backbone, "seed": seed}
    folder.mkdir(parents=True)
    (folder / "adapter.json").write_text(json.dumps(about))
    torch.manual_seed(seed)
    state = build_denoiser(read_about(folder)).adapter()
    moved = {k: (v + 0.02 * torch.randn(v.shape)).contiguous() for k, v in state.items()}
    save_file(moved, folder / "adapter.safetensors", metadata={"about": identity(about)})
    return folder
