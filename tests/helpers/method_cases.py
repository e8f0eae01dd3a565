"""Every method of configs/method and variants of them, on the tiny backbones: what the contract battery runs over."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

import torch
import yaml
from tiny import BACKBONES, TASKS, inputs
from torch import Tensor

from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import Method
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Condition

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs" / "method"
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
VARIANTS: dict[str, dict[str, Any]] = {
    "mtu experts=1": {},
    "mtu granularity=1": {"experts": 2},
    "mtu top_k=2": {},
    "mtu per_expert_norm=true": {},
    "mtu router_input=task_timestep": {},
    "finetune parts=[ffn,cross_attention]": {},
    "lora_ffn use_dora=true": {},
    "lora_ffn per_task=false": {"targets": ["ffn", "self_attention"]},
    "ia3 per_task=false": {},
    "dtr routing=task_timestep": {},
    "dtr random=true": {},
    "joint label=E": {"picture": "U"},
    "budgeted choice=random": {"slices": 2},
    "emma gate=scalar": {"references": ["object", "style"]},
    "emma time=false": {},
    "one_pic train=full": {"noise_context": True, "loss_region": "all"},
}
CASES = [*NAMES, *VARIANTS]
READS_TEXT = tuple(name for name in BACKBONES if name != "label")
BACKBONES_OF = {"emma": READS_TEXT, "ip_adapter": ("unet", "transformer")}
"""Backbones that a method takes, where these are not all."""
CANNOT_FOLD = (
    *("dtr", "one_pic", "mtu granularity=1", "mtu router_input=task_timestep"),
    *("emma", "emma gate=scalar", "emma time=false", "ip_adapter"),
)


def options(case: str) -> dict[str, Any]:
    """`name` or `name option=value`, over the YAML, with what VARIANTS adds."""
    name, *changes = case.split(" ")
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return {**given, **{k: yaml.safe_load(v) for k, v in (c.split("=") for c in changes)}, **VARIANTS.get(case, {})}


def make(case: str) -> Method:
    given = options(case)
    cls: Any = locate(given.pop("_target_"))
    return cls(**given)


def takes(case: str, backbone: str) -> bool:
    """Whether the method of a case takes a backbone."""
    return backbone in BACKBONES_OF.get(case.split(" ")[0], BACKBONES)


def inputs_of(denoiser: Denoiser, task: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor, Condition]:
    """Inputs that hold all that the method reads."""
    return inputs(denoiser.backbone, task, seed, denoiser.method.reads)


@cache
def base(name: str) -> Backbone:
    return BACKBONES[name]()


def adapted(case: str, backbone: str, shaken: float = 0.0) -> Denoiser:
    """A new denoiser; `shaken`: the trained parameters moved off their start, as training would."""
    torch.manual_seed(1)
    denoiser = Denoiser(copy.deepcopy(base(backbone)), make(case), TASKS)
    return shake(denoiser, shaken)


def mix(denoiser: Denoiser, noisy: Tensor, t: Tensor, condition: Condition) -> tuple[Tensor, Tensor, Condition]:
    """What training gives the network: with both modalities in each sample where the method has a process."""
    method = denoiser.method
    if method.process is None:
        return noisy, t, condition
    brought = {"masked": torch.ones_like(condition.task), "label": torch.arange(len(noisy)) + 1}
    given = replace(condition, extra={**condition.extra, **method.encode_extra(denoiser.backbone, brought)})
    mixed, given = method.process.mix(noisy, t, given)
    return mixed, t, given


@torch.no_grad()
def shake(denoiser: Denoiser, size: float) -> Denoiser:
    for p in denoiser.trained_parameters().values():
        p.add_(size * torch.randn(p.shape))
    return denoiser
