"""Build the shipped base model `nano` from the shipped data, stage by stage (configs/pretrain.yaml).

    python experiments/pretrain.py [stages=[autoencoder]] [autoencoder.steps=8000] [device=cuda]
    python experiments/pretrain.py backbone=nano_dit        a transformer on the shipped model's latents and text

Stopped and started again it continues. Every stage leaves `<work>/<stage>/{log.csv, state.pt, model/}`.
"""

import json
import logging
import platform
import sys
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import torch
from base_model import pretraining as pre
from diffusers import AutoencoderKL, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torchvision.utils import save_image
from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

from mtdiff.backbones import dit
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.metrics.alexnet import AlexNetEmbedding, lpips_alex
from mtdiff.model.sampling import Guidance, guide, make_scheduler
from mtdiff.model.sampling import sample as draw
from mtdiff.types import SPLITS, Split

log = logging.getLogger("pretrain")
GRID_PROMPTS = 8


class Builder:
    """Runs the stages; each reads what the earlier ones left on disk."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.work, self.seed = config, Path(config["work"]), config["seed"]
        self.device = torch.device(config["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.source = EmojiSource()

    def records(self, stage: str, splits: tuple[Split, ...] = ("train",)) -> pre.Records:
        seed = self.seed + 1 if stage == "measure" else self.seed
        return pre.Records(self.source, splits, seed, self.config[stage]["portraits"])

    def fit(self, name: str, stage: pre.Stage, **options: Any) -> None:
        c = self.config[name]
        stage.model.to(self.device)
        seconds = pre.train(stage, self.work / name, c["steps"], c["lr"], **options)
        stage.model.eval()
        self.note(name, steps=c["steps"], batch=c["batch"], seconds=round(seconds), device=self.device_name())
        self.note(name, parameters=pre.count_parameters(stage.model))

    def note(self, name: str, **facts: Any) -> None:
        """Add facts to `<work>/facts.json`, which the model card is written from."""
        path = self.work / "facts.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known.setdefault(name, {}).update(facts)
        path.write_text(json.dumps(known, indent=1) + "\n")

    def device_name(self) -> str:
        if self.device.type == "cuda":
            return torch.cuda.get_device_name()
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"

    def portraits(self, split: Split, number: int | None = None) -> tuple[Tensor, list[str]]:
        """Plain portraits of a split and their captions, at random where only some are asked for."""
        chosen = self.source.portraits(split)
        if number is not None:
            picks = np.random.default_rng(self.seed).choice(len(chosen), number, replace=False)
            chosen = [chosen[i] for i in picks]
        records = [self.source.portrait(p.style, p.stem) for p in chosen]
        return pre.to_float(torch.stack([r.image for r in records])), [r.caption for r in records]

    # 1. autoencoder -----------------------------------------------------------------------------------------------
    def autoencoder(self) -> None:
        c = self.config["autoencoder"]
        stage = pre.Autoencoder(self.records("autoencoder"), tuple(c["channels"]), c["batch"], c["lpips"], c["kl"])
        stage.perceptual.to(self.device)
        shown, _ = self.portraits("test", GRID_PROMPTS)

        def sample(step: int) -> None:
            with torch.no_grad():
                out = stage.model(shown.to(self.device)).sample.cpu()
            self.grid("autoencoder", step, torch.cat([shown, out]))

        self.fit("autoencoder", stage, sample=sample, sample_every=max(1, c["steps"] // 10))
        pictures, _ = self.records("autoencoder").batch(512, "standardise")
        pre.standardise(stage.model, pictures.to(self.device))
        stage.model.save_pretrained(self.work / "autoencoder" / "model")
        self.note("autoencoder", **self.reconstruction(stage.model))

    @torch.no_grad()
    def reconstruction(self, vae: AutoencoderKL) -> dict[str, float]:
        images, _ = self.portraits("test")
        metric = lpips_alex().to(self.device)
        rows: list[tuple[Tensor, Tensor]] = []
        for part in images.to(self.device).split(64):
            out = vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1)
            rows.append((pre.psnr(out, part), metric(out, part).flatten()))
        db, distance = (torch.cat(column).mean().item() for column in zip(*rows, strict=True))
        return {"test_psnr_db": round(db, 3), "test_lpips_alex": round(distance, 5), "test_pictures": len(images)}

    def vae(self) -> AutoencoderKL:
        return AutoencoderKL.from_pretrained(self.work / "autoencoder" / "model").to(self.device).eval()

    # 2. the two CLIPs ---------------------------------------------------------------------------------------------
    def tokenizer(self, name: str, splits: tuple[Split, ...]) -> CLIPTokenizer:
        folder = self.work / name / "model"
        if not (folder / "vocab.json").exists() and not (folder / "tokenizer.json").exists():
            texts = sorted({t for s in splits for t in self.source.texts(s)})
            pre.train_tokenizer(texts, folder, **self.config["tokenizer"])
        return CLIPTokenizer.from_pretrained(folder)

    def contrastive(self, name: str, splits: tuple[Split, ...]) -> None:
        c, tokenizer = self.config[name], self.tokenizer(name, splits)
        stage = pre.Contrastive(name, self.records(name, splits), tokenizer, c["model"], c["batch"])
        self.fit(name, stage)
        stage.model.save_pretrained(self.work / name / "model")
        images, captions = self.portraits("train", 200)
        with torch.no_grad():
            ids = pre.tokenize(tokenizer, captions).to(self.device)
            logits = stage.model(input_ids=ids, pixel_values=images.to(self.device)).logits_per_text
        right = (logits.argmax(1).cpu() == torch.arange(200)).float().mean().item()
        self.note(name, text_to_image_top1_of_200_train=round(right, 4))

    def clip(self) -> None:
        self.contrastive("clip", ("train",))

    def measure(self) -> None:
        self.contrastive("measure", SPLITS)
        made = self.work / "measure" / "model"
        out = self.config["measure_out"]
        CLIPModel.from_pretrained(made).half().save_pretrained(out)
        CLIPTokenizer.from_pretrained(made).save_pretrained(out)

    # 3. denoiser --------------------------------------------------------------------------------------------------
    def text_model(self) -> CLIPTextModel:
        clip = CLIPModel.from_pretrained(self.work / "clip" / "model")
        model = CLIPTextModel(clip.config.text_config)
        text = clip.text_model
        model.load_state_dict(
            text.state_dict()
            if set(model.state_dict()) == set(text.state_dict())
            else {f"text_model.{k}": v for k, v in text.state_dict().items()}
        )
        return model.to(self.device).eval().requires_grad_(False)

    def denoiser(self) -> None:
        c, vae, text = self.config["denoiser"], self.vae(), self.text_model()
        tokenizer = CLIPTokenizer.from_pretrained(self.work / "clip" / "model")
        records = self.records("denoiser")
        cache = pre.LatentCache(self.work / "denoiser" / "latents.safetensors", vae, records, c["drawn"])

        @torch.no_grad()
        def embed(captions: list[str]) -> Tensor:
            return text(pre.tokenize(tokenizer, captions).to(self.device)).last_hidden_state

        width = text.config.hidden_size
        stage = pre.LatentDenoiser(
            cache, embed, tuple(c["channels"]), c["heads"], width, c["batch"], self.seed, c["portraits"]
        )
        if self.device.type == "cpu":  # plain matrix products: 1.5x faster backward than the fused kernel there
            stage.model.set_attn_processor(AttnProcessor())
        pipeline = self.pipeline(vae, text, tokenizer, stage)
        truth, captions = self.portraits("train", GRID_PROMPTS * 2)

        def sample(step: int) -> None:
            self.grid("denoiser", step, torch.cat([truth, self.generate(pipeline, captions)]))

        self.fit("denoiser", stage, ema_decay=0.9995, sample=sample, sample_every=max(1, c["steps"] // 12))
        stage.model.set_default_attn_processor()
        self.assemble(pipeline)

    def pipeline(self, vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, stage: Any) -> Any:
        return StableDiffusionPipeline(
            vae=vae,
            text_encoder=text,
            tokenizer=tokenizer,
            unet=stage.model,
            scheduler=stage.schedule,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )

    def generate(self, pipeline: StableDiffusionPipeline, captions: list[str]) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1]; the noise depends on the seed alone."""
        pipeline.set_progress_bar_config(disable=True)
        noise = torch.Generator().manual_seed(self.seed)
        s = self.config["sampling"]
        with torch.autocast(self.device.type, torch.bfloat16):
            out = pipeline(
                captions,
                num_inference_steps=s["steps"],
                guidance_scale=s["guidance"],
                generator=noise,
                output_type="pt",
            )
        return out.images.float().cpu() * 2 - 1

    def assemble(self, pipeline: StableDiffusionPipeline) -> None:
        """Measure, then write the model folder: float16 safetensors, no file over 15 MB."""
        truth, captions = self.portraits("train", 200)
        made = torch.cat([self.generate(pipeline, captions[i : i + 50]) for i in range(0, 200, 50)])
        share = pre.retrieval(made, truth, AlexNetEmbedding(pool=False))
        self.note("denoiser", own_emoji_among_200_train=round(share, 4), sampling=self.config["sampling"])
        self.grid("denoiser", self.config["denoiser"]["steps"], torch.cat([truth[:40], made[:40]]))
        out = Path(self.config["out"])
        pipeline.to(dtype=torch.float16).save_pretrained(out, max_shard_size="15MB")
        # Transformers loads in the type the config names, diffusers in float32 unless told: without this they differ.
        path = out / "text_encoder" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": "float32"}, indent=2) + "\n")
        log.info("own emoji among 200: %.1f %%; model in %s", 100 * share, out)

    # 4. a transformer in the denoiser's place, around the shipped autoencoder and text encoder ------------------------
    def transformer(self) -> None:
        c = self.config["transformer"]
        backbone = dit.around_nano(c["model"], self.seed).to(self.device)
        records = self.records("transformer")
        cache = pre.LatentCache(self.work / "transformer" / "latents.safetensors", backbone.vae, records, c["drawn"])
        stage = pre.TransformerDenoiser(cache, backbone, c["batch"], self.seed, c["portraits"])
        shown, captions = self.portraits("train", GRID_PROMPTS * 2)

        def sample(step: int) -> None:
            self.grid("transformer", step, torch.cat([shown, self.drawn(backbone, captions)]))

        self.fit("transformer", stage, ema_decay=0.9995, sample=sample, sample_every=max(1, c["steps"] // 12))
        truth, captions = self.portraits("train", c["measured"])
        made = torch.cat([self.drawn(backbone, captions[i : i + 50]) for i in range(0, len(captions), 50)])
        share = pre.retrieval(made, truth, AlexNetEmbedding(pool=False))
        self.note("transformer", own_emoji_train=round(share, 4), among=len(truth), sampling=self.config["sampling"])
        self.grid("transformer", c["steps"], torch.cat([truth[:40], made[:40]]))
        backbone.denoiser.to(torch.float16).save_pretrained(Path(c["out"]) / "transformer")
        log.info("own emoji among %d: %.1f %%; transformer in %s", len(truth), 100 * share, c["out"])

    @torch.no_grad()
    def drawn(self, backbone: dit.PixArt, captions: list[str]) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1]; the noise depends on the seed alone."""
        s, generator = self.config["sampling"], torch.Generator().manual_seed(self.seed)
        noise = torch.randn(len(captions), *backbone.latent_shape, generator=generator).to(self.device)
        scales = [Guidance(1.0, s["guidance"])] * len(captions)
        guided = guide(pre.prompted(backbone, captions), backbone.embed([""]), scales)
        with torch.autocast(self.device.type, torch.bfloat16):
            out = draw(backbone.predict, make_scheduler("ddim", backbone.scheduler), guided, noise, s["steps"])
        return backbone.decode(out).cpu()

    def grid(self, name: str, step: int, pictures: Tensor) -> None:
        folder = self.work / name / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        save_image(pictures.clamp(-1, 1) / 2 + 0.5, folder / f"{step:06d}.png", nrow=16 if len(pictures) > 16 else 8)


@hydra.main(version_base=None, config_path="configs", config_name="pretrain")
def main(config: DictConfig) -> None:
    plain: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    if plain["threads"] is not None:
        torch.set_num_threads(plain["threads"])
    torch.manual_seed(plain["seed"])
    stages = {"nano": plain["stages"], "nano_dit": ["transformer"]}
    if plain["backbone"] not in stages:
        sys.exit(f"error: backbone={plain['backbone']}: expected one of {', '.join(stages)}")
    builder = Builder(plain)
    for stage in stages[plain["backbone"]]:
        log.info("stage %s", stage)
        getattr(builder, stage)()


if __name__ == "__main__":
    main()
