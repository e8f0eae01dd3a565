"""The stages of pre-training, each of which reads what the earlier ones left in the work folder."""

import json
import logging
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, PixArtTransformer2DModel, StableDiffusionPipeline
from torch import Tensor
from torchvision.utils import save_image
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from base_model import autoencoder as vaes
from base_model import contrastive, judge
from base_model.denoiser import AlignedDenoiser, LatentDenoiser, Shape, make_look, make_schedule, make_unet
from base_model.latents import Encoded, Mixture, encode_records
from base_model.loop import STATE, Budget, Stage, read_state, train_stage
from base_model.records import Records, hash_data, stack_portraits
from mtdiff.backbones.dit import NANO_TOKENS, PixArt, initialise
from mtdiff.backbones.latent import LatentBackbone, drawing, network
from mtdiff.backbones.stable_diffusion import StableDiffusion
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.files import write_atomically
from mtdiff.methods.untouched import Untouched
from mtdiff.metrics.alexnet import AlexNetEmbedding
from mtdiff.metrics.embedding import MeasuringClip
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter
from mtdiff.model.sampling import Guidance
from mtdiff.provenance import hash_weights
from mtdiff.types import SPLITS, Split

log = logging.getLogger(__name__)
SIZE = 64
SHOWN = 16
"""Pictures of each kind on a sample sheet."""


@dataclass(frozen=True)
class Work:
    """The configuration of `configs/pretrain.yaml`, and the folder that all stages write into."""

    config: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.config["work"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @cached_property
    def device(self) -> torch.device:
        return torch.device(self.config["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def source(self) -> EmojiSource:
        return EmojiSource(SIZE)

    def records(self, stage: str, splits: Sequence[Split] = ("train",)) -> Records:
        """The measuring CLIP sees other pictures than the one that conditions."""
        return Records(self.source, splits, self.seed + (stage == "measure"), self.config[stage].get("portraits", 0.0))

    def identify(self, stage: str, **others: str) -> dict[str, Any]:
        """What a state of the stage has to have been made with. A nearer or further end is no other configuration."""
        section = dict(self.config[stage])
        section["budget"] = {k: v for k, v in section["budget"].items() if k not in ("steps", "seconds")}
        identity = {**section, "seed": self.seed, "data": hash_data(), **others}
        read_state(self.folder / stage / STATE, identity)  # a mistake is said before anything is computed
        return identity

    def fit(self, name: str, stage: Stage, identity: Mapping[str, Any], sample: Callable[[int], None]) -> None:
        """Train, and note what it took."""
        section = self.config[name]
        budget = Budget(**section["budget"])
        spent = train_stage(stage, self.folder / name, budget, identity, sample=sample)
        stage.model.eval()
        pictures = int(spent["steps"]) * section["batch"]
        count = sum(p.numel() for p in stage.model.parameters())
        self.note(name, **spent, pictures=pictures, device=self.describe_device(), parameters=count)

    def note(self, name: str, **facts: Any) -> None:
        """Add facts to `facts.json`, which model cards and tables are written from."""
        path = self.folder / "facts.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known.setdefault(name, {}).update(facts)
        write_atomically(path, json.dumps(known, indent=1) + "\n")

    def describe_device(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"{platform.machine()} CPU, threads: {torch.get_num_threads()}"

    def show(self, name: str, step: int, *rows: Tensor) -> None:
        """A sheet of pictures in [-1, 1], a row each."""
        folder = self.folder / name / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        save_image(torch.cat(rows).cpu().clamp(-1, 1) / 2 + 0.5, folder / f"{step:07d}.png", nrow=len(rows[0]))


# The autoencoder


def build_autoencoder(work: Work) -> None:
    c = work.config["autoencoder"]
    with drawing("cpu", work.seed):
        vae = vaes.make_autoencoder(tuple(c["channels"]), c["latent_channels"], SIZE)
    if c["grown_from"] is not None:
        vaes.grow(vae, vaes.load_autoencoder(Path(c["grown_from"])))
    identity, loss = work.identify("autoencoder"), vaes.Loss(**c["loss"])
    records = work.records("autoencoder")
    shown = stack_portraits(work.source, "validation")[0][:SHOWN]
    stage = vaes.Autoencoder(vae.to(work.device), records, c["batch"], loss, work.seed)

    def sample(step: int) -> None:
        work.show("autoencoder", step, shown, reconstruct(vae, shown).cpu())

    work.fit("autoencoder", stage, identity, sample)
    vaes.standardise(vae, records.draw_batch(512, "standardise")[0])
    vae.save_pretrained(work.folder / "autoencoder" / "model")


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    return vae.decode(vae.encode(pictures.to(vae.device)).latent_dist.mean).sample.float()


# The two CLIPs


def build_clip(work: Work) -> None:
    train_clip(work, "clip", ("train",))


def build_measuring_clip(work: Work) -> None:
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
    work.note(name, text_to_image_top1_of_200_train=round(found, 4))


# The denoisers


def open_parts(work: Work) -> dict[str, Any]:
    """Autoencoder, text encoder and tokenizer that the denoisers are trained around, and their schedule."""
    vae = Path(work.config["vae"] or work.folder / "autoencoder" / "model")
    parts: dict[str, Any] = {"vae": vaes.load_autoencoder(vae), "scheduler": make_schedule()}
    if work.config["text"] is not None:
        text = Path(work.config["text"])
        encoder = CLIPTextModel.from_pretrained(text / "text_encoder", dtype=torch.float32).eval().requires_grad_(False)
        return parts | {"text_encoder": encoder, "tokenizer": CLIPTokenizer.from_pretrained(text / "tokenizer")}
    clip = work.folder / "clip" / "model"
    encoder = contrastive.take_text_half(CLIPModel.from_pretrained(clip))
    return parts | {"text_encoder": encoder, "tokenizer": CLIPTokenizer.from_pretrained(clip)}


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


def build_denoiser(work: Work) -> None:
    train_denoiser(work, "denoiser")


def build_transformer(work: Work) -> None:
    train_denoiser(work, "transformer")


def train_denoiser(work: Work, name: str) -> None:
    c, parts = work.config[name], open_parts(work)
    others = {part: hash_weights(parts[part].parameters()) for part in ("vae", "text_encoder")}
    identity = work.identify(name, **others)
    backbone = make_backbone(work, name, parts).to(work.device)
    encoded = encode(work, name, backbone, others)
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
        work.show(name, step, portraits.truth, drawn[0].cpu(), scenes.truth, drawn[1].cpu())

    work.fit(name, stage, identity, sample)
    backbone.denoiser.save_pretrained(work.folder / name / "model")


def load_denoiser(work: Work, name: str, backbone: LatentBackbone) -> None:
    trained = type(backbone.denoiser).from_pretrained(work.folder / name / "model")
    backbone.denoiser.load_state_dict(trained.state_dict())


def encode(work: Work, name: str, backbone: LatentBackbone, others: Mapping[str, str]) -> Encoded:
    """The latents of both denoisers are the same where their data are."""
    c, look = work.config[name], None
    aligned = bool(c.get("align"))
    if aligned:
        clip = CLIPModel.from_pretrained(work.config["aligned_with"] or work.folder / "clip" / "model")
        middle = backbone.latent_shape[1] // 2 ** (len(c["shape"]["channels"]) - 1)
        look = make_look(clip.to(work.device).eval(), middle)
    key = f"{others['vae'][:8]}-{others['text_encoder'][:8]}-{c['drawn']}-{work.seed}{'-looks' * aligned}-{name}"
    return encode_records(work.folder / "encoded" / key, backbone, work.records(name), c["drawn"], look)


def make_painter(work: Work, backbone: LatentBackbone) -> Painter:
    s = work.config["sampling"]
    denoiser = Denoiser(backbone, Untouched(), [judge.TASK])
    for parameter in backbone.denoiser.parameters():
        parameter.requires_grad_(True)  # which a denoiser that adapts nothing switches off
    scales = {judge.TASK: Guidance(1.0, s["guidance"])}
    return Painter(denoiser=denoiser, guidance=scales, sampler="ddim", steps=s["steps"])


# What came out


def judge_bases(work: Work) -> None:
    """Facts about every denoiser that is there, and about the autoencoder."""
    c = work.config["judge"]
    split: Split = c["split"]
    clip = MeasuringClip(Path(c["clip"] or work.folder / "measure" / "model")).to(work.device)
    parts = open_parts(work)
    floor = vaes.measure_floor(parts["vae"].to(work.device), stack_portraits(work.source, split)[0][: c["floor"]])
    work.note("judge", split=split, floor=floor)
    portraits = judge.choose_portraits(work.source, c["number"], split)
    scenes = judge.choose_scenes(work.source, c["number"], split)
    work.note("judge", truth=judge_pictures(clip, portraits.truth, scenes.truth, portraits, scenes))
    for name in ("denoiser", "transformer"):
        if (work.folder / name / "model").exists():
            backbone = make_backbone(work, name, parts)
            load_denoiser(work, name, backbone)
            painter = make_painter(work, backbone.to(work.device))
            drawn = [judge.draw_captions(painter, p.captions, work.seed, "judge") for p in (portraits, scenes)]
            work.note("judge", **{name: judge_pictures(clip, drawn[0], drawn[1], portraits, scenes)})
            work.show("judge", 0, portraits.truth[:SHOWN], drawn[0][:SHOWN], scenes.truth[:SHOWN], drawn[1][:SHOWN])


def judge_pictures(
    clip: MeasuringClip, alone: Tensor, composed: Tensor, portraits: judge.Prompts, scenes: judge.Scenes
) -> dict[str, Any]:
    """Pictures of portraits and of scenes against their captions, and against the true ones."""
    device = next(clip.parameters()).device
    embed = AlexNetEmbedding(pool=False).to(device)
    alone, composed, truth = alone.to(device), composed.to(device), portraits.truth.to(device)
    shares = {
        "own_by_caption": judge.find_own(clip, alone, portraits.captions),
        "own_by_picture": judge.find_own_picture(alone, truth, embed),
        "both_of_scene": judge.find_both(clip, composed, scenes),
    }
    found: dict[str, Any] = {}
    for name, hits in shares.items():
        interval = judge.share(hits, name)
        found[name] = {k: round(v, 4) for k, v in asdict(interval).items() if k in ("value", "low", "high")}
    found["fd_alexnet_portraits"] = round(judge.compare_features(alone, truth), 2)
    found["fd_alexnet_scenes"] = round(judge.compare_features(composed, scenes.truth.to(device)), 2)
    return found


def ship(work: Work) -> None:
    """Write a model folder of every network that is there: float16 safetensors, no file over 15 MB."""
    if (work.folder / "denoiser" / "model").exists():
        ship_pipeline(work, Path(work.config["out"]))
    transformer, measuring = (work.folder / name / "model" for name in ("transformer", "measure"))
    if transformer.exists():
        made = PixArtTransformer2DModel.from_pretrained(transformer, torch_dtype=torch.float16)
        made.save_pretrained(Path(work.config["transformer_out"]) / "transformer", max_shard_size="15MB")
    if measuring.exists():
        CLIPModel.from_pretrained(measuring).half().save_pretrained(work.config["measure_out"])
        CLIPTokenizer.from_pretrained(measuring).save_pretrained(work.config["measure_out"])


def ship_pipeline(work: Work, out: Path) -> None:
    """The U-Net and all around it, which diffusers alone reads."""
    backbone = make_backbone(work, "denoiser", open_parts(work))
    load_denoiser(work, "denoiser", backbone)
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
    pipeline.to(dtype=torch.float16).save_pretrained(out, max_shard_size="15MB")
    # Transformers loads in the type the config names, diffusers in float32 unless told: without this they differ.
    path = out / "text_encoder" / "config.json"
    write_atomically(path, json.dumps({**json.loads(path.read_text()), "dtype": "float32"}, indent=2) + "\n")


STAGES: Mapping[str, Callable[[Work], None]] = {
    "autoencoder": build_autoencoder,
    "clip": build_clip,
    "measure": build_measuring_clip,
    "denoiser": build_denoiser,
    "transformer": build_transformer,
    "judge": judge_bases,
    "ship": ship,
}
