"""The model folders that ship: float16 safetensors in diffusers format, no file over 15 MB."""

import json
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

import torch
from diffusers import PixArtTransformer2DModel, StableDiffusionPipeline
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer, CLIPVisionModelWithProjection

from base_model.parts import open_parts, read_backbone
from base_model.work import Work
from mtdiff.files.writing import write_atomically

SHARD = "15MB"
TEXT = ("text_encoder", "tokenizer")


def ship_models(work: Work) -> None:
    """Write a model folder of every network that the stages left."""
    if (work.folder / "denoiser" / "model").exists():
        ship_pipeline(work, Path(work.config["out"]))
    transformer, measuring = (work.folder / name / "model" for name in ("transformer", "measure"))
    if transformer.exists():
        made = PixArtTransformer2DModel.from_pretrained(transformer, torch_dtype=torch.float16)
        made.save_pretrained(Path(work.config["transformer_out"]) / "transformer", max_shard_size=SHARD)
    if (tower := work.folder / "vision" / "model").exists():
        ship_tower(tower, Path(work.config["out"]) / "image_encoder")
    if measuring.exists():
        CLIPModel.from_pretrained(measuring).half().save_pretrained(work.config["measure_out"])
        CLIPTokenizer.from_pretrained(measuring).save_pretrained(work.config["measure_out"])


def ship_pipeline(work: Work, out: Path) -> None:
    """Write the U-Net and all around it, which diffusers alone reads. A text encoder of `out` itself stays as it is."""
    backbone = read_backbone("denoiser", open_parts(work), work.folder / "denoiser" / "model")
    for part in (backbone.vae, backbone.denoiser):
        part.register_to_config(_name_or_path="")  # else the folder that it was read from, here
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
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder)
        pipeline.to(dtype=torch.float16).save_pretrained(made, max_shard_size=SHARD)
        # Transformers loads in the type the config names, diffusers in float32 unless told: without this they differ.
        path = made / "text_encoder" / "config.json"
        write_atomically(path, json.dumps({**json.loads(path.read_text()), "dtype": "float32"}, indent=2) + "\n")
        kept = TEXT if work.config["text"] is not None and Path(work.config["text"]).samefile(out) else ()
        replace_parts(made, out, kept)


def replace_parts(made: Path, out: Path, kept: Collection[str]) -> None:
    """Put new parts, each whole, in the place of the old ones; what is kept or has no new part stays."""
    for part in [part for part in made.iterdir() if part.name not in kept]:
        if part.is_dir():
            shutil.rmtree(out / part.name, ignore_errors=True)
        shutil.move(part, out / part.name)


def ship_tower(tower: Path, out: Path) -> None:
    """Write the picture tower, and how pictures are prepared for it: the whole of each, in [-1, 1]."""
    made = CLIPVisionModelWithProjection.from_pretrained(tower).half()
    made.save_pretrained(out)
    side = made.config.image_size
    halves = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    size, crop = {"shortest_edge": side}, {"height": side, "width": side}
    CLIPImageProcessor(size=size, crop_size=crop, **halves).save_pretrained(out)
