"""A tiny backbone of each family, with weights drawn at random."""

from typing import Any

from tiny import UNET, tiny_unet
from tiny_joint import tiny_joint, tiny_label
from tiny_transformer import SCHEDULER, TINY_CLIP, TINY_VAE, tiny_transformer

from mtdiff.backbones import sdxl

SDXL_UNET: dict[str, Any] = {
    **UNET,
    "cross_attention_dim": 32,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 24 + 6 * 8,
}
SECOND_CLIP = {**TINY_CLIP, "projection_dim": 24, "hidden_act": "gelu"}


def sdxl_parts(**changed: Any) -> dict[str, Any]:
    encoders = {"text_encoder": TINY_CLIP, "text_encoder_2": SECOND_CLIP}
    return {"unet": SDXL_UNET, "vae": TINY_VAE, "scheduler": SCHEDULER, **encoders, **changed}


def tiny_sdxl(weights: str = "random", seed: int = 0) -> Any:
    return sdxl.load(weights, size=16, architecture=sdxl_parts(), seed=seed)


FAMILIES: dict[str, Any] = {
    "unet": tiny_unet,
    "sdxl": tiny_sdxl,
    "transformer": tiny_transformer,
    "joint": tiny_joint,
    "label": tiny_label,
}
