"""Blocks that a denoiser can do without one by one, since each of them adds to what enters it.

What is left runs, though most of it is no configuration of diffusers; parts that are one are in `lighter`.

Letters: B batch, C channels, h w latent size, L text tokens, N picture tokens, D width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from mtdiff.backbones.base import Removable, Site


def unet_removable(unet: nn.Module) -> list[Removable]:
    """Residual blocks and transformers of any diffusers UNet; of a deeper transformer each of its blocks."""
    return [found for name, module in unet.named_modules() for found in list_children(name, module)]


def list_children(name: str, parent: nn.Module) -> Iterator[Removable]:
    """What is removable among the direct children of a module, whose dotted name is `name`."""
    for attribute, child in parent.named_children():
        path = f"{name}.{attribute}" if name else attribute
        if isinstance(child, ResnetBlock2D):
            if child.upsample is None and child.downsample is None and child.output_scale_factor == 1:
                yield find_residual(Site(path, parent, attribute, child.in_channels, branch=False), child)
        elif isinstance(child, Transformer2DModel) and len(child.transformer_blocks) == 1:
            site = Site(path, parent, attribute, child.in_channels, branch=False)
            yield Removable(site, "transformer", skip_transformer)
        elif isinstance(child, Transformer2DModel):
            blocks: Any = child.transformer_blocks
            sites = [Site(f"{path}.transformer_blocks.{i}", blocks, str(i), b.dim) for i, b in enumerate(blocks)]
            yield from stack_removable(sites)


def find_residual(site: Site, block: ResnetBlock2D) -> Removable:
    """A residual block; where it changes the number of channels, the product that its shortcut is stays."""
    if block.conv_shortcut is None:
        return Removable(site, "residual", skip_block)
    return Removable(site, "residual", skip_to_shortcut, ("conv_shortcut",))


def stack_removable(sites: Sequence[Site], *, joint: bool = False) -> list[Removable]:
    """The blocks of a transformer. joint: each carries the text's stream as well as the picture's."""
    return [Removable(site, "transformer", skip_joint if joint else skip_block) for site in sites]


def skip_block(block: nn.Module, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
    """hidden_states (B, N, D) or (B, C, h, w), unchanged."""
    return hidden_states


def skip_to_shortcut(block: nn.Module, hidden_states: Tensor, *args: Any, **options: Any) -> Tensor:
    """hidden_states (B, C, h, w) -> (B, C', h, w)."""
    return block.get_submodule("conv_shortcut")(hidden_states)


def skip_transformer(block: nn.Module, hidden_states: Tensor, *args: Any, **options: Any) -> tuple[Tensor]:
    """hidden_states (B, C, h, w), in the form that a UNet asks its transformers for."""
    return (hidden_states,)


def skip_joint(
    block: nn.Module, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **options: Any
) -> tuple[Tensor, Tensor]:
    """Text (B, L, D) and picture (B, N, D), both unchanged."""
    return encoder_hidden_states, hidden_states
