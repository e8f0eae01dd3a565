"""Stable Diffusion XL: two text encoders, and a UNet that also reads pooled text and picture sizes (2307.01952)."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from mtdiff.backbones.latent import (
    byte_tokenizer,
    drawing,
    network,
    noise_schedule,
    read_parts,
    refuse_unknown,
    text_network,
)
from mtdiff.backbones.unet import UNetBackbone
from mtdiff.types import Condition, Text

PARTS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "text_encoder_2": CLIPTextModelWithProjection,
    "tokenizer": CLIPTokenizer,
    "tokenizer_2": CLIPTokenizer,
    "scheduler": DDIMScheduler,
}


class StableDiffusionXL(UNetBackbone):
    """zero_empty_prompt: the empty prompt is encoded as zeros, as the published base model was trained."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        scheduler: Any,
        size: int,
        attention: Literal["fused", "plain"] = "fused",
        zero_empty_prompt: bool = True,
    ) -> None:
        super().__init__(unet, vae, scheduler, size, attention)
        self.text_encoder, self.text_encoder_2 = text_encoder.eval(), text_encoder_2.eval()
        self.tokenizer, self.tokenizer_2, self.zero_empty_prompt = tokenizer, tokenizer_2, zero_empty_prompt

    def list_tokenizers(self) -> list[tuple[Any, int | None]]:
        return [(self.tokenizer, None), (self.tokenizer_2, None)]

    @torch.no_grad()
    def embed(self, prompts: Sequence[str]) -> Text:
        """tokens (B, L, D1 + D2): next-to-last layers of both encoders. extra: `text_embeds` (B, P)."""
        hidden, pooled = [], torch.empty(0)
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            ids, _ = self.tokenize(tokenizer, prompts)
            out = encoder(ids.to(encoder.device), output_hidden_states=True)
            hidden.append(out.hidden_states[-2])
            pooled = out[0]  # of the second encoder: the projected end token
        tokens = torch.cat(hidden, -1).float()  # (B, L, D1 + D2)
        if self.zero_empty_prompt:
            said = torch.tensor([p != "" for p in prompts], device=tokens.device)
            tokens, pooled = tokens * said[:, None, None], pooled * said[:, None]
        return Text(tokens, {"text_embeds": pooled.float()})

    def time_ids(self, condition: Condition) -> Tensor:
        """(B, 6): original height and width, top and left of the crop, target height and width, in pixels; here always
        an uncropped picture of the shape that is trained on or drawn."""
        height, width = (side * self.factor for side in condition.source.shape[-2:])
        sizes = torch.tensor([height, width, 0, 0, height, width], device=condition.source.device)
        return sizes.float().repeat(len(condition), 1)

    def predict(self, packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        added = {"text_embeds": condition.extra["text_embeds"], "time_ids": self.time_ids(condition)}
        return self.denoiser(packed, t, encoder_hidden_states=condition.text, added_cond_kwargs=added).sample


def load(
    weights: str,
    size: int = 1024,
    revision: str | None = None,
    attention: Literal["fused", "plain"] = "fused",
    zero_empty_prompt: bool = True,
    architecture: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> StableDiffusionXL:
    """A Stable Diffusion XL by name.

    weights: a folder in diffusers format, a hub repository (pin it with `revision`), `random` (drawn from `seed`) or
    `meta` (shapes only); the last two are built from `architecture`.
    """
    if weights in ("random", "meta"):
        parts = build(dict(architecture or {}), "meta" if weights == "meta" else "cpu", seed)
    else:
        parts = read_parts(weights, revision, PARTS)
    return StableDiffusionXL(**parts, size=size, attention=attention, zero_empty_prompt=zero_empty_prompt)


def build(architecture: dict[str, Any], device: str, seed: int) -> dict[str, Any]:
    """Parts of a given shape without pre-trained weights; the tokens are bytes.

    architecture: keyword arguments for each of unet, vae, text_encoder, text_encoder_2, scheduler.
    """
    wanted = [part for part in PARTS if not part.startswith("tokenizer")]
    refuse_unknown("backbone.architecture", architecture, wanted)
    for part in wanted:
        if part not in architecture:
            raise ValueError(f"backbone.architecture.{part}: has to be given where no weights are read")
    first, second = architecture["text_encoder"], architecture["text_encoder_2"]
    tokenizers = [byte_tokenizer(c.get("max_position_embeddings", 77)) for c in (first, second)]
    with drawing(device, seed):
        parts = {
            "unet": network(UNet2DConditionModel, "unet", architecture["unet"]),
            "vae": network(AutoencoderKL, "vae", architecture["vae"]),
            "text_encoder": text_network(CLIPTextModel, CLIPTextConfig, "text_encoder", first, tokenizers[0]),
            "text_encoder_2": text_network(
                CLIPTextModelWithProjection, CLIPTextConfig, "text_encoder_2", second, tokenizers[1]
            ),
        }
    scheduler = noise_schedule(architecture["scheduler"])
    return {**parts, "tokenizer": tokenizers[0], "tokenizer_2": tokenizers[1], "scheduler": scheduler}
