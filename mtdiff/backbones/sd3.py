"""Stable Diffusion 3: text and picture in one attention, trained as a flow (Esser et al., arXiv 2403.03206).

A block holds two streams, each with its own norms and feed-forward layer; attention runs over both together. So every
feed-forward layer, of either stream, is a site of its own, and there is no cross-attention. The last block's text
stream ends with its attention: it has no feed-forward layer, and its queries are computed but never used.

The norms before the feed-forward layers have no weights of their own: what a method gives them is absorbed into the
layer that makes the time's shift and scale (`modulation`), so a folded network is a plain one.

Letters: B batch, C latent channels, h w latent size, L text tokens, D text width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
)

from mtdiff.backbones.base import Level, Part, Removable, Site, SiteKind, UnitKind
from mtdiff.backbones.ending import Ending, Middle, transformer_ending, transformer_middle
from mtdiff.backbones.latent import (
    LatentBackbone,
    block_parts,
    byte_tokenizer,
    drawing,
    flow_schedule,
    network,
    read_parts,
    refuse_unknown,
    text_network,
)
from mtdiff.backbones.lighter import stack_drops
from mtdiff.backbones.modulation import absorb
from mtdiff.backbones.removable import stack_removable
from mtdiff.types import Condition, Text

PARTS = {
    "transformer": SD3Transformer2DModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModelWithProjection,
    "text_encoder_2": CLIPTextModelWithProjection,
    "tokenizer": CLIPTokenizer,
    "tokenizer_2": CLIPTokenizer,
    "scheduler": FlowMatchEulerDiscreteScheduler,
}
LAYERS = {"ffn": ("ff", "ff_context"), "self_attention": ("attn", "attn2"), "cross_attention": ()}
"""Attributes of a block that are sites of each kind: its attention runs over text and picture together."""
T5_PARTS = {"text_encoder_3": T5EncoderModel, "tokenizer_3": AutoTokenizer}


class StableDiffusion3(LatentBackbone):
    """tokens: length of T5's part of the text. Without T5 that part is zeros, as the model was trained with too."""

    levels: ClassVar[tuple[Level, ...]] = ("block", "layer", "unit")

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        scheduler: Any,
        size: int,
        text_encoder_3: T5EncoderModel | None = None,
        tokenizer_3: Any = None,
        tokens: int = 256,
    ) -> None:
        super().__init__(transformer, vae, scheduler, size, "fused")
        self.text_encoder, self.text_encoder_2 = text_encoder.eval(), text_encoder_2.eval()
        self.text_encoder_3 = None if text_encoder_3 is None else text_encoder_3.eval()
        self.tokenizer, self.tokenizer_2, self.tokenizer_3 = tokenizer, tokenizer_2, tokenizer_3
        self.tokens = tokens

    def list_tokenizers(self) -> list[tuple[Any, int | None]]:
        if self.text_encoder_3 is None:
            return [(self.tokenizer, None), (self.tokenizer_2, None)]
        return [(self.tokenizer_3, self.tokens)]

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Text:
        """tokens (B, L + tokens, D): the CLIPs' next-to-last layers side by side, padded, then T5's last.

        extra: `pooled` (B, P), the projected end tokens of both CLIPs.
        """
        hidden, pooled = [], []
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            ids, _ = self.tokenize(tokenizer, prompts, longest=self.text_encoder_3 is None)
            out = encoder(ids.to(encoder.device), output_hidden_states=True)
            hidden.append(out.hidden_states[-2])
            pooled.append(out[0])
        clip = torch.cat(hidden, -1).float()  # (B, L, D1 + D2)
        width = self.denoiser.config["joint_attention_dim"]
        clip = nn.functional.pad(clip, (0, width - clip.shape[-1]))  # (B, L, D)
        if self.text_encoder_3 is None:
            t5 = clip.new_zeros(len(prompts), self.tokens, width)
        else:
            ids, _ = self.tokenize(self.tokenizer_3, prompts, self.tokens)
            t5 = self.text_encoder_3(ids.to(clip.device)).last_hidden_state.float()  # padding included, as published
        return Text(torch.cat([clip, t5], 1), {"pooled": torch.cat(pooled, -1).float()})

    def predict(self, packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        pooled = condition.extra["pooled"]
        return self.denoiser(packed, encoder_hidden_states=condition.text, pooled_projections=pooled, timestep=t).sample

    def sites(self, kind: SiteKind) -> list[Site]:
        net = self.denoiser
        if kind == "input":
            return [Site("pos_embed.proj", net.pos_embed, "proj", net.pos_embed.proj.weight.shape[-3])]
        blocks, width = net.transformer_blocks, net.inner_dim
        if kind == "block":
            return [Site(f"transformer_blocks.{i}", blocks, str(i), width, branch=False) for i in range(len(blocks))]
        attributes = LAYERS[kind]
        return [
            Site(f"transformer_blocks.{i}.{name}", block, name, width, norm_before(i, block, name, width))
            for i, block in enumerate(blocks)
            for name in attributes
            if getattr(block, name) is not None
        ]

    def parts(self, level: Level, units: Sequence[UnitKind]) -> list[Part]:
        net = self.denoiser
        if level != "unit":
            return block_parts(net.transformer_blocks, level)
        blocks = [module for module in net.modules() if isinstance(module, JointTransformerBlock)]
        layers = [getattr(block, name) for block in blocks for kind in units for name in LAYERS[kind]]
        return [Part(layer) for layer in layers if layer is not None]

    def ending(self) -> Ending:
        return transformer_ending(self.denoiser, self.denoiser.proj_out)

    def middle(self) -> Middle:
        return transformer_middle(self.denoiser)

    def drops(self) -> Mapping[str, Callable[[], None]]:
        return stack_drops(self.denoiser, keep_last=True)

    def removable(self) -> list[Removable]:
        return stack_removable(self.sites("block")[:-1], joint=True)  # the last gives no text

    def idle(self) -> list[str]:
        joint = [
            name
            for name, module in self.denoiser.named_modules()
            if isinstance(module, Attention) and module.added_kv_proj_dim is not None
        ]
        return [f"{joint[-1]}.{name}" for name in ("add_q_proj", "norm_added_q")]

    def sync_config(self) -> None:
        super().sync_config()
        self.denoiser.register_to_config(out_channels=self.denoiser.out_channels)
        for site in self.sites("ffn"):
            assert site.norm is not None
            block: Any = site.parent
            absorb(site.norm, (block.norm1 if site.attribute == "ff" else block.norm1_context).linear)


def norm_before(i: int, block: nn.Module, name: str, width: int) -> Site | None:
    """The norm before a feed-forward layer; None for attention, whose norm is the modulating layer's own."""
    norm = {"ff": "norm2", "ff_context": "norm2_context"}.get(name)
    return None if norm is None else Site(f"transformer_blocks.{i}.{norm}", block, norm, width)


def load(
    weights: str,
    size: int = 1024,
    revision: str | None = None,
    t5: bool = False,
    tokens: int = 256,
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> StableDiffusion3:
    """A Stable Diffusion 3 by name.

    weights: a folder in diffusers format, a hub repository (pin it with `revision`), `random` (drawn from `seed`) or
    `meta` (shapes only); the last two are built from `architecture`. t5: with the third text encoder (4.8B parameters).
    """
    if weights in ("random", "meta"):
        parts = build(dict(architecture or {}), t5, tokens, "meta" if weights == "meta" else "cpu", seed)
    else:
        parts = read_parts(weights, revision, {**PARTS, **(T5_PARTS if t5 else {})})
    return StableDiffusion3(**parts, size=size, tokens=tokens)


def build(architecture: dict[str, Any], t5: bool, tokens: int, device: str, seed: int) -> dict[str, Any]:
    """Parts of a given shape without pre-trained weights; the text's tokens are bytes.

    architecture: keyword arguments for each of transformer, vae, text_encoder, text_encoder_2, text_encoder_3 (read
    with t5 alone), scheduler.
    """
    wanted = [part for part in PARTS if not part.startswith("tokenizer")] + ["text_encoder_3"] * t5
    refuse_unknown("backbone.architecture", architecture, [*wanted, "text_encoder_3"])
    for part in wanted:
        if part not in architecture:
            raise ValueError(f"backbone.architecture.{part}: has to be given where no weights are read")
    made: dict[str, Any] = {}
    with drawing(device, seed):
        made["transformer"] = network(SD3Transformer2DModel, "transformer", architecture["transformer"])
        made["vae"] = network(AutoencoderKL, "vae", architecture["vae"])
        for number in ("", "_2"):
            given = architecture[f"text_encoder{number}"]
            tokenizer = made[f"tokenizer{number}"] = byte_tokenizer(given.get("max_position_embeddings", 77))
            kind = (CLIPTextModelWithProjection, CLIPTextConfig, f"text_encoder{number}")
            made[f"text_encoder{number}"] = text_network(*kind, given, tokenizer)
        if t5:
            given = {k: v for k, v in architecture["text_encoder_3"].items() if k != "model_type"}
            made["tokenizer_3"] = byte_tokenizer(tokens)
            kind = (T5EncoderModel, T5Config, "text_encoder_3")
            made["text_encoder_3"] = text_network(*kind, given, made["tokenizer_3"])
    return {**made, "scheduler": flow_schedule(architecture["scheduler"])}
