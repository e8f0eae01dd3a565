"""Stable Diffusion and its kin: AutoencoderKL, CLIP text encoder, UNet2DConditionModel (Rombach et al., 2112.10752)."""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

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

SHIPPED = "nano"  # the base model inside the package
PARTS = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "scheduler": DDIMScheduler,
}


class StableDiffusion(UNetBackbone):
    """One CLIP text encoder, whose last layer the UNet reads."""

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
