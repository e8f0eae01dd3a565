"""The places of a diffusers UNet with `BasicTransformerBlock`s that a method, a shortcut or a budget may change."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from mtdiff.backbones.base import Level, Part, Removable, Site, SiteKind, UnitKind
from mtdiff.backbones.ending import Ending, Middle, unet_ending, unet_middle
from mtdiff.backbones.latent import LatentBackbone
from mtdiff.backbones.lighter import unet_drops
from mtdiff.backbones.removable import unet_removable


class UNetBackbone(LatentBackbone):
    """A latent backbone whose denoiser is such a UNet; a family adds its texts and its call."""

    levels: ClassVar[tuple[Level, ...]] = ("block", "layer", "unit")

    def sites(self, kind: SiteKind) -> list[Site]:
        return list(unet_sites(self.denoiser, kind))

    def parts(self, level: Level, units: Sequence[UnitKind]) -> list[Part]:
        return list(unet_parts(self.denoiser, level, units))

    def drops(self) -> Mapping[str, Callable[[], None]]:
        return unet_drops(self.denoiser)

    def ending(self) -> Ending:
        return unet_ending(self.denoiser)

    def middle(self) -> Middle:
        return unet_middle(self.denoiser)

    def removable(self) -> list[Removable]:
        return unet_removable(self.denoiser)

    def convolutions(self) -> list[Site]:
        return list(unet_convolutions(self.denoiser))


def unet_parts(unet: Any, level: Level, units: Sequence[UnitKind]) -> Iterator[Part]:
    """Parts of any diffusers UNet. Modules that only feed other parts are among them: they have no work then either.

    `block` leaves the level of the largest pictures, `layer` (DeepCache's choice, arXiv 2312.00858) its last layer.
    """
    if level == "unit":
        yield from unit_parts(unet, units)
        return
    *inner, last = unet.up_blocks
    skipped = [*unet.down_blocks[1 if level == "block" else 0 :], unet.mid_block, *inner]
    if level == "layer":
        skipped += [*last.resnets[:-1], *getattr(last, "attentions", [])[:-1]]
    yield from (Part(module) for module in skipped if module is not None)


def unet_convolutions(unet: nn.Module) -> Iterator[Site]:
    """Both convolutions of every residual block."""
    for name, module in unet.named_modules():
        if isinstance(module, ResnetBlock2D):
            for attribute, width in (("conv1", module.in_channels), ("conv2", module.out_channels)):
                yield Site(f"{name}.{attribute}", module, attribute, width)


def unit_parts(network: nn.Module, units: Sequence[UnitKind]) -> Iterator[Part]:
    """Attention and feed-forward layers of every `BasicTransformerBlock`, wherever a method has put the block."""
    for name, module in network.named_modules():
        if isinstance(module, BasicTransformerBlock):
            yield from (Part(site.module) for kind in units for site in transformer_block_sites(name, module, kind))


def unet_sites(unet: Any, kind: SiteKind) -> Iterator[Site]:
    """Sites of any diffusers UNet with `BasicTransformerBlock`s."""
    if kind == "input":
        yield Site("conv_in", unet, "conv_in", unet.conv_in.weight.shape[-3])
        return
    for name, module in unet.named_modules():
        if kind == "block":
            if isinstance(module, ResnetBlock2D):
                yield Site(f"{name}.norm1", module, "norm1", module.in_channels)
            elif isinstance(module, Transformer2DModel):
                yield Site(f"{name}.norm", module, "norm", module.in_channels)
        elif isinstance(module, BasicTransformerBlock):
            yield from transformer_block_sites(name, module, kind)


def transformer_block_sites(
    name: str, block: BasicTransformerBlock, kind: SiteKind, ffn_norm: str = "norm3"
) -> Iterator[Site]:
    """Feed-forward layer or attention of one block; `ffn_norm` names the norm just before the feed-forward layer."""
    if kind == "ffn":
        norm = Site(f"{name}.{ffn_norm}", block, ffn_norm, block.dim)
        yield Site(f"{name}.ff", block, "ff", block.dim, norm=norm)
    else:
        for attribute in ("attn1", "attn2"):
            attention = getattr(block, attribute)
            if isinstance(attention, Attention) and attention.is_cross_attention == (kind == "cross_attention"):
                yield Site(f"{name}.{attribute}", block, attribute, block.dim)
