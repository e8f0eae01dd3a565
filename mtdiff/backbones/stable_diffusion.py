"""Stable Diffusion and its kin: AutoencoderKL, CLIP text encoder, UNet2DConditionModel (Rombach et al., 2112.10752)."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from mtdiff.backbones.base import Level, Part, Removable, Site, SiteKind, UnitKind
from mtdiff.backbones.ending import Ending, Middle, unet_ending, unet_middle
from mtdiff.backbones.latent import (
    LatentBackbone,
    byte_tokenizer,
    drawing,
    network,
    noise_schedule,
    read_parts,
    refuse_unknown,
    text_network,
)
from mtdiff.backbones.lighter import unet_drops
from mtdiff.backbones.removable import unet_removable
from mtdiff.types import Condition, Text

SHIPPED = "nano"  # the base model inside the package
PARTS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "scheduler": DDIMScheduler,
}


class StableDiffusion(LatentBackbone):
    """One CLIP text encoder, whose last layer the UNet reads."""

    levels: ClassVar[tuple[Level, ...]] = ("block", "layer", "unit")

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        scheduler: Any,
        size: int,
        attention: Literal["fused", "plain"] = "fused",
    ) -> None:
        super().__init__(unet, vae, scheduler, size, attention)
        self.text_encoder, self.tokenizer = text_encoder.eval(), tokenizer

    def list_tokenizers(self) -> list[tuple[Any, int | None]]:
        return [(self.tokenizer, None)]

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Text:
        ids, _ = self.tokenize(self.tokenizer, prompts)
        tokens = self.text_encoder(ids.to(self.text_encoder.device)).last_hidden_state  # (B, L, D)
        return Text(tokens.float())

    def predict(self, packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.denoiser(packed, t, encoder_hidden_states=condition.text).sample

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


def load(
    weights: str = SHIPPED,
    size: int = 64,
    revision: str | None = None,
    attention: Literal["fused", "plain"] = "fused",
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> StableDiffusion:
    """A Stable Diffusion model by name.

    weights: `nano` (shipped), a folder in diffusers format, a hub repository (pin it with `revision`), `random` (true
    size, drawn from `seed`) or `meta` (shapes only); the last two are built from `architecture`, or as `nano`.
    """
    if weights in ("random", "meta"):
        parts = build(dict(architecture or {}), "meta" if weights == "meta" else "cpu", seed)
    else:
        parts = read(weights, revision)
    return StableDiffusion(**parts, size=size, attention=attention)


def shipped_folder() -> Path:
    return Path(str(files("mtdiff").joinpath("assets", SHIPPED)))


def read(weights: str, revision: str | None) -> dict[str, Any]:
    """Parts from a diffusers folder, the shipped one, or the hub."""
    return read_parts(shipped_folder() if weights == SHIPPED else weights, revision, PARTS)


def build(architecture: dict[str, Any], device: str, seed: int) -> dict[str, Any]:
    """Parts of a given shape without pre-trained weights.

    architecture: keyword arguments by part (unet, vae, text_encoder, scheduler). A part that it leaves out is shaped as
    in the shipped model. With a text encoder of its own the tokens are bytes, so that nothing shipped is needed.
    """
    refuse_unknown("backbone.architecture", architecture, [part for part in PARTS if part != "tokenizer"])
    config = {part: architecture.get(part) or shipped_config(part) for part in PARTS if part != "tokenizer"}
    if "text_encoder" in architecture:
        tokenizer = byte_tokenizer(config["text_encoder"].get("max_position_embeddings", 77))
    else:
        tokenizer = CLIPTokenizer.from_pretrained(shipped_folder() / "tokenizer")
    with drawing(device, seed):
        parts = {
            "unet": network(UNet2DConditionModel, "unet", config["unet"]),
            "vae": network(AutoencoderKL, "vae", config["vae"]),
            "text_encoder": text_network(
                CLIPTextModel, CLIPTextConfig, "text_encoder", config["text_encoder"], tokenizer
            ),
        }
    return {**parts, "tokenizer": tokenizer, "scheduler": noise_schedule(config["scheduler"])}


def shipped_config(part: str) -> dict[str, Any]:
    """The shipped model's own configuration of one part."""
    path = shipped_folder() / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    if not path.exists():
        raise ValueError(
            f"backbone.architecture.{part}: has to be given, the shipped model is not at {shipped_folder()}"
        )
    return json.loads(path.read_text())
