"""A diffusion transformer of true shape and tiny size, with weights drawn at random: latents 4 x 8 x 8."""

from typing import Any

from mtdiff.backbones.base import Backbone
from mtdiff.backbones.dit import load

TINY_VAE: dict[str, Any] = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
    "sample_size": 16,
}
TINY_CLIP: dict[str, Any] = {
    "vocab_size": 514,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "projection_dim": 16,
}
TINY_T5: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": 514,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
}
TINY_TRANSFORMER: dict[str, Any] = {
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "cross_attention_dim": 16,
    "caption_channels": 16,
    "sample_size": 8,
    "patch_size": 2,
    "use_additional_conditions": False,
}
SCHEDULER = {"num_train_timesteps": 1000, "prediction_type": "epsilon", "steps_offset": 1}


def architecture(**changed: Any) -> dict[str, Any]:
    """Keyword arguments of every part of the tiny transformer; `changed` replaces whole parts."""
    return {
        "transformer": TINY_TRANSFORMER,
        "vae": TINY_VAE,
        "text_encoder": TINY_T5,
        "scheduler": SCHEDULER,
        **changed,
    }


def tiny_transformer(weights: str = "random", seed: int = 0) -> Backbone:
    return load(weights, size=16, tokens=16, architecture=architecture(), seed=seed)
