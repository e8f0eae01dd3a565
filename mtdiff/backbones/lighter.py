"""Parts that can be taken out of a diffusers network so that what is left is a plain diffusers network again.

Each function gives {name: what takes the part out}, in place, its configuration included. Names are as the network was.
What the A-SDM paper takes out is not public; these are the drops that a configuration of diffusers can say, as in
BK-SDM (arXiv 2305.15798), whose choice of the layers that stay we follow.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D, CrossAttnUpBlock2D, DownBlock2D, UpBlock2D
from torch import nn

Drops = dict[str, Callable[[], None]]


def unet_drops(unet: Any) -> Drops:
    """attention.<level>: all attention of a level, 0 being that of the largest pictures. layer.<level>: the last layer
    of its way down and the second of its way up, where it has two or more. middle: the block between the ways."""
    found: Drops = {}
    for level, block in enumerate(unet.down_blocks):
        up = unet.up_blocks[-1 - level]
        if isinstance(block, CrossAttnDownBlock2D) and isinstance(up, CrossAttnUpBlock2D):
            found[f"attention.{level}"] = partial(drop_attention, unet, level)
        if len(block.resnets) > 1:
            found[f"layer.{level}"] = partial(drop_layer, unet, level)
    if unet.mid_block is not None:
        found["middle"] = partial(drop_middle, unet)
    return found


def drop_attention(unet: Any, level: int) -> None:
    down, up = unet.down_blocks[level], unet.up_blocks[-1 - level]
    width = down.resnets[0].norm1.num_groups
    shape: dict[str, Any] = {"in_channels": width, "out_channels": width, "temb_channels": 1, "resnet_groups": width}
    with torch.device("meta"):  # empty: the layers are those that are there
        plain_down, plain_up = DownBlock2D(**shape), UpBlock2D(prev_output_channel=width, **shape)
    plain_down.resnets, plain_down.downsamplers = down.resnets, down.downsamplers
    plain_up.resnets, plain_up.upsamplers, plain_up.resolution_idx = up.resnets, up.upsamplers, up.resolution_idx
    unet.down_blocks[level], unet.up_blocks[-1 - level] = plain_down.train(down.training), plain_up.train(up.training)
    for key, place, name in (("down", level, "DownBlock2D"), ("up", -1 - level, "UpBlock2D")):
        types = list(unet.config[f"{key}_block_types"])
        types[place] = name
        unet.register_to_config(**{f"{key}_block_types": types})


def drop_layer(unet: Any, level: int) -> None:
    for block, place in ((unet.down_blocks[level], -1), (unet.up_blocks[-1 - level], 1)):
        for name in ("resnets", "attentions"):
            if hasattr(block, name):
                del getattr(block, name)[place]
    unet.register_to_config(layers_per_block=[len(block.resnets) for block in unet.down_blocks])


def drop_middle(unet: Any) -> None:
    unet.mid_block = None
    unet.register_to_config(mid_block_type=None)


def stack_drops(network: Any, *, keep_last: bool = False) -> Drops:
    """block.<number>: one block of a transformer. keep_last: the last is of another shape, and has to stay."""
    blocks = list(network.transformer_blocks)
    droppable = blocks[:-1] if keep_last else blocks if len(blocks) > 1 else []
    return {f"block.{i}": partial(drop_block, network, block) for i, block in enumerate(droppable)}


def drop_block(network: Any, block: nn.Module) -> None:
    kept = [other for other in network.transformer_blocks if other is not block]
    if not kept:
        raise ValueError("method.drop: names every block, expected at least one to stay")
    dual = network.config.get("dual_attention_layers")
    if dual:
        places = [i for i, other in enumerate(network.transformer_blocks) if other is not block]
        network.register_to_config(dual_attention_layers=tuple(n for n, i in enumerate(places) if i in dual))
    network.transformer_blocks = nn.ModuleList(kept)
    network.register_to_config(num_layers=len(kept))
