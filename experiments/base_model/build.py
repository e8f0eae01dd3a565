"""The stages of pre-training, each of which reads what the earlier ones left in the work folder."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import CLIPModel

from base_model import autoencoder as vaes
from base_model import contrastive, judge
from base_model.denoiser import AlignedDenoiser, LatentDenoiser, make_look
from base_model.evaluate import SHOWN, judge_bases
from base_model.latents import Encoded, Mixture, encode_records
from base_model.parts import load_denoiser, make_backbone, make_painter, open_parts, open_text
from base_model.records import hash_data, stack_portraits
from base_model.ship import ship_models
from base_model.work import SIZE, Work
from mtdiff.backbones.latent import LatentBackbone, drawing
from mtdiff.provenance import hash_weights
from mtdiff.types import SPLITS, Split


def build_autoencoder(work: Work) -> None:
    """Train an AutoencoderKL, or further one's decoder alone, and whiten its latents."""
    c = work.config["autoencoder"]
    identity, loss = work.identify("autoencoder"), vaes.Loss(**c["loss"])
    with drawing("cpu", work.seed):
        vae = vaes.make_autoencoder(tuple(c["channels"]), c["latent_channels"], SIZE)
    if c["start"] is not None:
        vaes.copy_levels(vae, vaes.load_autoencoder(Path(c["start"])))
    if c["decoder_only"]:
        vaes.freeze_encoder(vae)
    records = work.records("autoencoder")
    shown = stack_portraits(work.source, "validation")[0][:SHOWN]
    stage = vaes.Autoencoder(vae.to(work.device), records, c["batch"], loss, work.seed)

    def sample(step: int) -> None:
        work.show("autoencoder", f"{step:07d}", shown, reconstruct(vae, shown).cpu())

    work.fit("autoencoder", stage, identity, sample)
    if not c["decoder_only"]:
        vaes.standardise(vae, records.draw_batch(512, "standardise")[0])
    vae.save_pretrained(work.folder / "autoencoder" / "model")


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    return vae.decode(vae.encode(pictures.to(vae.device)).latent_dist.mean).sample.float()


def build_clip(work: Work) -> None:
    """Train the CLIP whose text half conditions the denoisers."""
    train_clip(work, "clip", ("train",))


def build_measuring_clip(work: Work) -> None:
    """Train the CLIP that measures."""
    train_clip(work, "measure", SPLITS)


def train_clip(work: Work, name: str, splits: tuple[Split, ...]) -> None:
    c, folder = work.config[name], work.folder / name / "model"
    identity = work.identify(name)
    tokenizer = contrastive.open_tokenizer(folder)
    if tokenizer is None:
        texts = sorted({text for split in splits for text in work.source.texts(split)})
        tokenizer = contrastive.train_tokenizer(texts, folder, **work.config["tokenizer"])
    with drawing("cpu", work.seed + (name == "measure")):
        clip = contrastive.make_clip(tokenizer, c["model"])
    stage = contrastive.Contrastive(name, clip.to(work.device), tokenizer, work.records(name, splits), c["batch"])
    work.fit(name, stage, identity, lambda step: None)
    clip.save_pretrained(folder)
    prompts = judge.choose_portraits(work.source, 200, "validation")
    found = contrastive.match_captions(clip, tokenizer, prompts.truth, prompts.captions)
    work.note(name, text_to_image_top1_of_200_training_emoji=round(found, 4))


def build_vision(work: Work) -> None:
    """Train the picture tower that reads reference pictures, against the frozen text half; training pictures alone."""
    c, parts = work.config["vision"], open_text(work)
    text, tokenizer = parts["text_encoder"], parts["tokenizer"]
    identity = work.identify("vision", text_encoder=hash_weights(text.parameters()))
    with drawing("cpu", work.seed):
        tower = contrastive.make_tower(c["model"], text.config.hidden_size)
    records = work.records("vision")
    stage = contrastive.PictureTower(tower.to(work.device), text.to(work.device), tokenizer, records, c["batch"])
    work.fit("vision", stage, identity, lambda step: None)
    tower.save_pretrained(work.folder / "vision" / "model")
    prompts = judge.choose_portraits(work.source, 200, "validation")
    found = contrastive.match_tower(stage, prompts.truth, prompts.captions)
    work.note("vision", text_to_image_top1_of_200_training_emoji=round(found, 4))


def build_denoiser(work: Work) -> None:
    """Train the U-Net."""
    train_denoiser(work, "denoiser")


def build_transformer(work: Work) -> None:
    """Train the diffusion transformer, on the U-Net's latents and text."""
    train_denoiser(work, "transformer")


def train_denoiser(work: Work, name: str) -> None:
    c, parts = work.config[name], open_parts(work)
    made_by = {
        "encoder": hash_weights([*parts["vae"].encoder.parameters(), *parts["vae"].quant_conv.parameters()]),
        "text_encoder": hash_weights(parts["text_encoder"].parameters()),
    }
    identity = work.identify(name, **made_by)
    backbone = make_backbone(work, name, parts).to(work.device)
    if c["start"] is not None:
        load_denoiser(backbone, Path(c["start"]))
    encoded = encode_pictures(work, name, backbone, made_by)
    options: dict[str, Any] = {"mixture": Mixture(**c["mixture"]), "batch": c["batch"], "seed": work.seed}
    stage = LatentDenoiser(backbone, encoded, **options)
    if c.get("align"):
        stage = AlignedDenoiser(backbone, encoded, **options, weight=c["align"])
        stage.head.to(work.device)
    painter = make_painter(work, backbone)
    portraits = judge.choose_portraits(work.source, SHOWN, "validation")
    scenes = judge.choose_scenes(work.source, SHOWN, "validation")

    def sample(step: int) -> None:
        drawn = [judge.draw_captions(painter, p.captions, work.seed, "sheet") for p in (portraits, scenes)]
        work.show(name, f"{step:07d}", portraits.truth, drawn[0].cpu(), scenes.truth, drawn[1].cpu())

    work.fit(name, stage, identity, sample)
    backbone.denoiser.save_pretrained(work.folder / name / "model")


def encode_pictures(work: Work, name: str, backbone: LatentBackbone, made_by: Mapping[str, str]) -> Encoded:
    """Latents and texts that the denoiser `name` is trained on, from the folder where another left the same."""
    c, look, tower = work.config[name], None, None
    if c.get("align"):
        clip = CLIPModel.from_pretrained(work.config["aligned_with"] or work.folder / "clip" / "model")
        tower = hash_weights(clip.vision_model.parameters())
        middle = backbone.latent_shape[1] // 2 ** (len(c["shape"]["channels"]) - 1)
        look = make_look(clip.to(work.device).eval(), middle)
    known = {"data": hash_data(), "drawn": c["drawn"], "seed": work.seed, "tower": tower, **made_by}
    return encode_records(work.folder / "encoded", backbone, work.records(name), c["drawn"], known, look)


STAGES: Mapping[str, Callable[[Work], None]] = {
    "autoencoder": build_autoencoder,
    "clip": build_clip,
    "measure": build_measuring_clip,
    "vision": build_vision,
    "denoiser": build_denoiser,
    "transformer": build_transformer,
    "judge": judge_bases,
    "ship": ship_models,
}
