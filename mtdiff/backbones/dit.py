"""Latent diffusion transformers with text cross-attention: PixArt-Sigma (Chen et al., arXiv 2403.04692).

A block is norm -> self-attention, cross-attention (no norm), norm -> feed-forward, with shift, scale and gate from the
time (adaLN-single). Its norms have no weights of their own: a method that wants one per task starts it at weight 1 and
bias 0 (our decision), just before the time's shift and scale.

Pictures of another shape than the square one, such as a canvas of twice the width, get the position grid that diffusers
draws for them: each side runs over the range that the square's side runs over, in finer steps.

Letters: B batch, C latent channels, h w latent size, L text tokens, D text width.
"""

from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PixArtTransformer2DModel
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from mtdiff.backbones.base import Level, Part, Removable, Site, SiteKind, UnitKind
from mtdiff.backbones.ending import Ending, Middle, transformer_ending, transformer_middle
from mtdiff.backbones.latent import (
    LatentBackbone,
    block_parts,
    byte_tokenizer,
    drawing,
    network,
    noise_schedule,
    read_parts,
    refuse_unknown,
    text_network,
)
from mtdiff.backbones.lighter import stack_drops
from mtdiff.backbones.removable import stack_removable
from mtdiff.backbones.stable_diffusion import shipped_config
from mtdiff.backbones.unet import transformer_block_sites, unit_parts
from mtdiff.types import Condition, Text

TEXT_ENCODERS: dict[str, tuple[Any, Any]] = {
    "t5": (T5EncoderModel, T5Config),
    "clip_text_model": (CLIPTextModel, CLIPTextConfig),
}


class PixArt(LatentBackbone):
    """tokens: text length L (PixArt-Sigma: 300). The padding of a prompt is hidden from the transformer."""

    levels: ClassVar[tuple[Level, ...]] = ("block", "layer", "unit")

    def __init__(
        self,
        transformer: PixArtTransformer2DModel,
        vae: AutoencoderKL,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        size: int,
        attention: Literal["fused", "plain"] = "fused",
        tokens: int = 300,
    ) -> None:
        if transformer.use_additional_conditions:
            raise ValueError(
                "backbone: this PixArt reads picture sizes (use_additional_conditions); expected a PixArt-Sigma"
            )
        super().__init__(transformer, vae, scheduler, size, attention)
        self.text_encoder, self.tokenizer, self.tokens = text_encoder.eval(), tokenizer, tokens

    def list_tokenizers(self) -> list[tuple[Any, int | None]]:
        return [(self.tokenizer, self.tokens)]

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Text:
        """tokens (B, L, D); extra: `text_mask` (B, L), 1 where a token belongs to the prompt."""
        device = next(self.text_encoder.parameters()).device
        ids, mask = (x.to(device) for x in self.tokenize(self.tokenizer, prompts, self.tokens))
        seen = None if mask.is_meta else mask  # transformers looks at a mask's values, which shapes alone do not have
        tokens = self.text_encoder(ids, attention_mask=seen).last_hidden_state
        return Text(tokens.float(), {"text_mask": mask})

    def predict(self, packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        out = self.denoiser(
            packed,
            encoder_hidden_states=condition.text,
            timestep=t,
            encoder_attention_mask=condition.extra["text_mask"],
        ).sample
        return out[:, : self.latent_shape[0]]  # the other half is the learned variance, which nothing here uses

    def sites(self, kind: SiteKind) -> list[Site]:
        net = self.denoiser
        if kind == "input":
            proj = net.pos_embed.proj
            return [Site("pos_embed.proj", net.pos_embed, "proj", proj.weight.shape[-3])]
        blocks = net.transformer_blocks
        if kind == "block":
            return [
                Site(f"transformer_blocks.{i}", blocks, str(i), net.inner_dim, branch=False) for i in range(len(blocks))
            ]
        return [
            site
            for i, block in enumerate(blocks)
            for site in transformer_block_sites(f"transformer_blocks.{i}", block, kind, ffn_norm="norm2")
        ]

    def parts(self, level: Level, units: Sequence[UnitKind]) -> list[Part]:
        net = self.denoiser
        return list(unit_parts(net, units)) if level == "unit" else block_parts(net.transformer_blocks, level)

    def ending(self) -> Ending:
        return transformer_ending(self.denoiser, self.denoiser.proj_out)

    def middle(self) -> Middle:
        return transformer_middle(self.denoiser)

    def drops(self) -> Mapping[str, Callable[[], None]]:
        return stack_drops(self.denoiser)

    def removable(self) -> list[Removable]:
        return stack_removable(self.sites("block")[1:])  # one has to stay

    def sync_config(self) -> None:
        """diffusers has one switch for all norms of the blocks: where one has weights, the others get neutral ones."""
        super().sync_config()
        sites = [(block, name) for block in self.denoiser.transformer_blocks for name in ("norm1", "norm2")]
        if any(getattr(block, name).elementwise_affine for block, name in sites):
            for block, name in sites:
                setattr(block, name, affine(getattr(block, name)))
            self.denoiser.register_to_config(norm_elementwise_affine=True)


def affine(norm: nn.LayerNorm) -> nn.LayerNorm:
    """The same normalisation with a weight and a bias, 1 and 0 where it had none."""
    if norm.elementwise_affine:
        return norm
    return nn.LayerNorm(norm.normalized_shape, norm.eps).requires_grad_(False)


NANO_DIT = "nano_dit"  # a transformer around nano's autoencoder and text encoder, if this package has it
NANO_TOKENS = 32
SHAPED = ("vae", "text_encoder", "scheduler")  # parts beside the transformer that an architecture describes


def find_shipped(name: str) -> Path:
    """Folder of a model inside the package."""
    return Path(str(files("mtdiff").joinpath("assets", name)))


@torch.no_grad()
def initialise(network: PixArtTransformer2DModel) -> PixArtTransformer2DModel:
    """PixArt's own start (arXiv 2310.00426): the text adds nothing to a block, and the first prediction is zero."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    timestep = network.adaln_single.emb.timestep_embedder
    text = network.caption_projection
    small = (timestep.linear_1, timestep.linear_2, network.adaln_single.linear, text.linear_1, text.linear_2)
    for layer in small:
        nn.init.normal_(layer.weight, std=0.02)
    nn.init.xavier_uniform_(network.pos_embed.proj.weight.flatten(1))
    for layer in (network.proj_out, *(block.attn2.to_out[0] for block in network.transformer_blocks)):
        nn.init.zeros_(layer.weight)
    return network


def load(
    weights: str,
    size: int = 512,
    revision: str | None = None,
    parts: str | None = None,
    parts_revision: str | None = None,
    attention: Literal["fused", "plain"] = "fused",
    tokens: int = 300,
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> PixArt:
    """A PixArt-Sigma by name.

    weights: a folder in diffusers format, a hub repository (pin it with `revision`), `random` (drawn from `seed`) or
    `meta` (shapes only); the last two are built from `architecture`. `nano_dit`: the one of this package.
    parts: where all but the transformer is, if elsewhere (the published 512-pixel model is the transformer alone);
    `nano`: the package's own, whose shapes stand where `architecture` leaves them out.
    """
    if weights == NANO_DIT and not find_shipped(NANO_DIT).exists():
        raise ValueError(
            "backbone.weights=nano_dit: not in this package; make it with `python experiments/pretrain.py`, "
            "or choose random"
        )
    if weights in ("random", "meta"):
        shapes = {part: shipped_config(part) for part in SHAPED} if parts == "nano" else {}
        made = build({**shapes, **(architecture or {})}, tokens, "meta" if weights == "meta" else "cpu", seed)
    else:
        where = find_shipped(NANO_DIT) if weights == NANO_DIT else weights
        made = read_parts(where, revision, {"transformer": PixArtTransformer2DModel})
        others = find_shipped("nano") if parts == "nano" else parts
        made |= read_parts(others, parts_revision, REST) if others else read_parts(where, revision, REST)
    return PixArt(**made, size=size, attention=attention, tokens=tokens)


def read_encoder(weights: str, subfolder: str, revision: str | None) -> nn.Module:
    """The text encoder of the kind that its own configuration names."""
    where: dict[str, Any] = {"subfolder": subfolder, "revision": revision}
    cls, _ = encoder_classes(AutoConfig.from_pretrained(weights, **where).model_type)
    return cls.from_pretrained(weights, use_safetensors=True, dtype=torch.float32, **where)


REST = {"vae": AutoencoderKL, "text_encoder": read_encoder, "tokenizer": AutoTokenizer, "scheduler": DDIMScheduler}
"""All parts but the transformer, and what reads them."""


def encoder_classes(kind: str) -> tuple[Any, Any]:
    if kind not in TEXT_ENCODERS:
        raise ValueError(
            f"backbone.architecture.text_encoder.model_type={kind}: expected one of {', '.join(TEXT_ENCODERS)}"
        )
    return TEXT_ENCODERS[kind]


def build(architecture: dict[str, Any], tokens: int, device: str, seed: int) -> dict[str, Any]:
    """Parts of a given shape without pre-trained weights; the text's tokens are bytes.

    architecture: keyword arguments for each of transformer, vae, text_encoder (`model_type`: t5 or clip_text_model),
    scheduler.
    """
    wanted = ("transformer", *SHAPED)
    refuse_unknown("backbone.architecture", architecture, wanted)
    for part in wanted:
        if part not in architecture:
            raise ValueError(f"backbone.architecture.{part}: has to be given where no weights are read")
    text = {k: v for k, v in architecture["text_encoder"].items() if k != "model_type"}
    cls, config = encoder_classes(architecture["text_encoder"].get("model_type", "t5"))
    tokenizer = byte_tokenizer(tokens)
    with drawing(device, seed):
        made = {
            "transformer": network(PixArtTransformer2DModel, "transformer", architecture["transformer"]),
            "vae": network(AutoencoderKL, "vae", architecture["vae"]),
            "text_encoder": text_network(cls, config, "text_encoder", text, tokenizer),
        }
    return {**made, "tokenizer": tokenizer, "scheduler": noise_schedule(architecture["scheduler"])}
