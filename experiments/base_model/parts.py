"""The networks of a base put together, from what the stages left in the work folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from base_model import contrastive, judge
from base_model.autoencoder import load_autoencoder
from base_model.denoiser import Shape, make_schedule, make_unet
from base_model.work import SIZE, Work
from mtdiff.backbones.dit import NANO_TOKENS, PixArt, initialise
from mtdiff.backbones.latent import LatentBackbone, drawing, network
from mtdiff.backbones.stable_diffusion import StableDiffusion
from mtdiff.methods.untouched import Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter
from mtdiff.model.sampling import Guidance


def open_parts(work: Work) -> dict[str, Any]:
    """Autoencoder, text encoder and tokenizer that the denoisers are trained around, and their schedule."""
    vae = Path(work.config["vae"] or work.folder / "autoencoder" / "model")
    return {"vae": load_autoencoder(vae), "scheduler": make_schedule(), **open_text(work)}


def open_text(work: Work) -> dict[str, Any]:
    """The text encoder that the denoisers read, and its tokenizer."""
    if work.config["text"] is not None:
        text = Path(work.config["text"])
        encoder = CLIPTextModel.from_pretrained(text / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
        return {"text_encoder": encoder, "tokenizer": CLIPTokenizer.from_pretrained(text / "tokenizer")}
    clip = work.folder / "clip" / "model"
    encoder = contrastive.take_text_half(CLIPModel.from_pretrained(clip))
    return {"text_encoder": encoder, "tokenizer": CLIPTokenizer.from_pretrained(clip)}


def make_backbone(work: Work, name: str, parts: Mapping[str, Any]) -> LatentBackbone:
    """A new denoiser of the kind `name` (`denoiser`: a U-Net, `transformer`) around the other parts."""
    c = work.config[name]
    vae, width = parts["vae"].config, parts["text_encoder"].config.hidden_size
    side = SIZE // 2 ** (len(vae["block_out_channels"]) - 1)
    latent = (vae["latent_channels"], side, side)
    with drawing("cpu", work.seed):
        if name == "denoiser":
            unet = make_unet(Shape(**c["shape"]), latent, width)
            return StableDiffusion(unet, **parts, size=SIZE, attention="plain")
        fitting = {"sample_size": side, "in_channels": latent[0], "out_channels": latent[0], "caption_channels": width}
        transformer = initialise(network(PixArtTransformer2DModel, "transformer", {**c["shape"], **fitting}))
        return PixArt(transformer, **parts, size=SIZE, attention="plain", tokens=NANO_TOKENS)


def read_backbone(name: str, parts: Mapping[str, Any], folder: Path) -> LatentBackbone:
    """The denoiser of the kind `name` in a folder of diffusers format, of whatever shape, around the other parts."""
    if name == "denoiser":
        unet = UNet2DConditionModel.from_pretrained(folder).float()
        return StableDiffusion(unet, **parts, size=SIZE, attention="plain")
    transformer = PixArtTransformer2DModel.from_pretrained(folder).float()
    return PixArt(transformer, **parts, size=SIZE, attention="plain", tokens=NANO_TOKENS)


def load_denoiser(backbone: LatentBackbone, folder: Path) -> None:
    """Give the denoiser of `backbone` the weights in a folder of diffusers format. ValueError where shapes differ."""
    found = type(backbone.denoiser).from_pretrained(folder).float().state_dict()
    wanted = {name: value.shape for name, value in backbone.denoiser.state_dict().items()}
    for name in sorted({*wanted, *found}):
        shape = found[name].shape if name in found else None
        if shape != wanted.get(name):
            ours = wanted.get(name)
            raise ValueError(
                f"start={folder}: {name} is {shape and list(shape)} there and {ours and list(ours)} in `shape`; "
                "expected a denoiser of that shape"
            )
    backbone.denoiser.load_state_dict(found)


def make_painter(work: Work, backbone: LatentBackbone) -> Painter:
    """The painter of what `backbone` draws from a caption alone."""
    s = work.config["sampling"]
    denoiser = Denoiser(backbone, Untouched(), [judge.TASK])
    for parameter in backbone.denoiser.parameters():
        parameter.requires_grad_(True)  # which a denoiser that adapts nothing switches off
    scales = {judge.TASK: Guidance(1.0, s["guidance"])}
    return Painter(denoiser=denoiser, guidance=scales, sampler="ddim", steps=s["steps"])
