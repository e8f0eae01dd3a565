"""Where a denoiser's features can be read, and copies of its last layers, for heads that a method puts beside them.

Letters: B batch, C latent channels, C' channels of the network's output, D width, N tokens, h w latent size.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Ending:
    """The last layers of a denoiser.

    first: the module that the last features enter, maps (B, D, h, w) or tokens (B, N, D). copy: new layers, started as
    the denoiser's, from these features to its output. patch: side of a token's patch; None where features are maps.
    """

    first: nn.Module
    copy: nn.Module
    patch: int | None = None


@dataclass(frozen=True)
class Middle:
    """The module whose output, maps (B, D, h', w') or tokens (B, N, D), lies in the middle of the denoiser."""

    module: nn.Module
    width: int


def unet_ending(unet: Any) -> Ending:
    layers = (copy.deepcopy(layer) for layer in (unet.conv_norm_out, unet.conv_act, unet.conv_out))
    return Ending(unet.conv_norm_out, nn.Sequential(*layers))


def unet_middle(unet: Any) -> Middle:
    return Middle(unet.mid_block, unet.mid_block.resnets[-1].out_channels)


def transformer_ending(net: Any, projection: nn.Linear) -> Ending:
    """Its own last norm is shifted and scaled by the time; the copy has a weight and a bias in their place."""
    weight = projection.weight
    norm = nn.LayerNorm(projection.in_features, 1e-6, device=weight.device, dtype=weight.dtype)
    return Ending(net.norm_out, nn.Sequential(norm, copy.deepcopy(projection)), net.config["patch_size"])


def transformer_middle(net: Any) -> Middle:
    blocks = net.transformer_blocks
    return Middle(blocks[len(blocks) // 2], net.inner_dim)


def join_patches(tokens: Tensor, patch: int, height: int, width: int) -> Tensor:
    """(B, N, p p C') of a picture of h x w latent cells -> (B, C', h, w), in diffusers' order."""
    parts = tokens.unflatten(1, (height // patch, width // patch)).unflatten(-1, (patch, patch, -1))
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def pool_features(features: Tensor | tuple[Tensor, ...]) -> Tensor:
    """The mean over places, (B, D). Of a joint block's (text, picture) the picture's."""
    last = features if isinstance(features, Tensor) else features[-1]
    return last.mean((2, 3)) if last.ndim == 4 else torch.mean(last, 1)
