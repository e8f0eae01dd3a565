"""Tiny models of true shape with weights drawn at random, and inputs for them: latents 4 x 8 x 8, text 16 x 16."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from tiny_joint import tiny_joint, tiny_label
from tiny_transformer import SCHEDULER, TINY_CLIP, TINY_VAE, tiny_transformer
from torch import Tensor

from mtdiff.backbones import sdxl, stable_diffusion
from mtdiff.backbones.base import Backbone
from mtdiff.types import Condition

TASKS = ("text_to_image", "edit", "super_resolution", "inpaint")
UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [16, 32],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 16,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
}
SD15_UNET: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL_UNET: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def tiny_unet(
    weights: str = "random",
    seed: int = 0,
    unet: dict[str, Any] = UNET,
    size: int = 16,
    clip: dict[str, Any] = TINY_CLIP,
) -> Backbone:
    parts = {"unet": unet, "vae": TINY_VAE, "text_encoder": clip, "scheduler": SCHEDULER}
    return stable_diffusion.load(weights, size=size, architecture=parts, seed=seed)


def sd15_shapes() -> Backbone:
    """The UNet of Stable Diffusion 1.5 without values; the parts around it have few layers."""
    return tiny_unet("meta", unet=SD15_UNET, size=128, clip={**TINY_CLIP, "hidden_size": 768})


def sdxl_shapes() -> Backbone:
    """The UNet of Stable Diffusion XL without values; the parts around it have few layers."""
    second = {**TINY_CLIP, "hidden_size": 1280, "projection_dim": 1280}
    encoders = {"text_encoder": {**TINY_CLIP, "hidden_size": 768}, "text_encoder_2": second}
    parts = {"unet": SDXL_UNET, "vae": TINY_VAE, "scheduler": SCHEDULER, **encoders}
    return sdxl.load("meta", size=256, architecture=parts)


# The contract battery runs over each of these.
BACKBONES: dict[str, Callable[[], Backbone]] = {
    "unet": tiny_unet,
    "transformer": tiny_transformer,
    "joint": tiny_joint,
    "label": tiny_label,
}


def inputs(
    backbone: Backbone, task: Sequence[int], seed: int = 0, reads: Mapping[str, tuple[int, ...]] | None = None
) -> tuple[Tensor, Tensor, Condition]:
    """Noisy latent, time and condition for samples of some of TASKS, one a task id. reads: as `Method.reads` has it."""
    rng = torch.Generator().manual_seed(seed)
    n, (c, h, w) = len(task), backbone.latent_shape
    noisy, source = (torch.randn(n, c, h, w, generator=rng) for _ in range(2))
    t = torch.randint(1000, (n,), generator=rng)
    hole = torch.zeros(h, w)
    hole[: h // 2, : w // 2] = 1
    mask = torch.stack([{0: torch.ones(h, w), 3: hole}.get(k, torch.zeros(h, w)) for k in task])[:, None]
    text = backbone.embed([f"picture {i}" for i in range(n)])
    extra = {name: torch.randn(n, *shape, generator=rng) for name, shape in (reads or {}).items()}
    condition = Condition(source * (1 - mask), mask, text.tokens, torch.tensor(task), {**text.extra, **extra})
    return noisy, t, condition
