"""The model folders that ship: float16 safetensors in diffusers format, no file over 15 MB."""

import json
from pathlib import Path

import torch
from diffusers import PixArtTransformer2DModel, StableDiffusionPipeline
from transformers import CLIPModel, CLIPTokenizer

from base_model.parts import load_denoiser, make_backbone, open_parts
from base_model.work import Work
from mtdiff.files import write_atomically

SHARD = "15MB"


def ship_models(work: Work) -> None:
    """Write a model folder of every network that the stages left."""
    if (work.folder / "denoiser" / "model").exists():
        ship_pipeline(work, Path(work.config["out"]))
    transformer, measuring = (work.folder / name / "model" for name in ("transformer", "measure"))
    if transformer.exists():
        made = PixArtTransformer2DModel.from_pretrained(transformer, torch_dtype=torch.float16)
        made.save_pretrained(Path(work.config["transformer_out"]) / "transformer", max_shard_size=SHARD)
    if measuring.exists():
        CLIPModel.from_pretrained(measuring).half().save_pretrained(work.config["measure_out"])
        CLIPTokenizer.from_pretrained(measuring).save_pretrained(work.config["measure_out"])


def ship_pipeline(work: Work, out: Path) -> None:
    """Write the U-Net and all around it, which diffusers alone reads."""
    backbone = make_backbone(work, "denoiser", open_parts(work))
    load_denoiser(backbone, work.folder / "denoiser" / "model")
    pipeline = StableDiffusionPipeline(
        vae=backbone.vae,
        text_encoder=backbone.text_encoder,
        tokenizer=backbone.tokenizer,
        unet=backbone.denoiser,
        scheduler=backbone.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(out, max_shard_size=SHARD)
    # Transformers loads in the type the config names, diffusers in float32 unless told: without this they differ.
    path = out / "text_encoder" / "config.json"
    write_atomically(path, json.dumps({**json.loads(path.read_text()), "dtype": "float32"}, indent=2) + "\n")
