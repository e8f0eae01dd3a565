"""Tiny transformers of true shape, weights drawn at random: joint attention (SD3) and classes in place of text (DiT).

Latents 4 x 8 x 8.
"""

from typing import Any

from tiny_transformer import SCHEDULER, TINY_CLIP, TINY_T5, TINY_VAE

from mtdiff.backbones import label_dit, sd3
from mtdiff.backbones.base import Backbone

FLOW = {"num_train_timesteps": 1000, "shift": 3.0}
JOINT: dict[str, Any] = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "joint_attention_dim": 40,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 40,
    "pos_embed_max_size": 12,
}
SECOND_CLIP = {**TINY_CLIP, "projection_dim": 24, "hidden_act": "gelu"}
LABEL: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "sample_size": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
}


def joint_architecture(**changed: Any) -> dict[str, Any]:
    """Keyword arguments of every part of the tiny SD3; `changed` replaces whole parts."""
    return {
        "transformer": JOINT,
        "vae": {**TINY_VAE, "shift_factor": 0.1},
        "text_encoder": TINY_CLIP,
        "text_encoder_2": SECOND_CLIP,
        "text_encoder_3": {**TINY_T5, "d_model": 40},
        "scheduler": FLOW,
        **changed,
    }


def label_architecture(**changed: Any) -> dict[str, Any]:
    return {"transformer": LABEL, "vae": TINY_VAE, "scheduler": SCHEDULER, **changed}


def tiny_joint(weights: str = "random", seed: int = 0, t5: bool = False) -> Backbone:
    return sd3.load(weights, size=16, t5=t5, tokens=4, architecture=joint_architecture(), seed=seed)


def tiny_label(weights: str = "random", seed: int = 0) -> Backbone:
    return label_dit.load(weights, size=16, architecture=label_architecture(), seed=seed)
