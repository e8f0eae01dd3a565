"""Pre-training of the shipped base model: one small loop, four stages that share it.

autoencoder  AutoencoderKL, 64 px -> 4 x 16 x 16; squared error + LPIPS + a little KL (Rombach et al., arXiv 2112.10752)
clip         text and picture towers trained contrastively (Radford et al., arXiv 2103.00020); the text half conditions
measure      the same, on every split and with another seed; for measuring only
denoiser     UNet2DConditionModel on the latents, v-prediction (arXiv 2202.00512), uniform weights
transformer  a diffusion transformer in its place, on the shipped model's latents and text (`backbone=nano_dit`)

Each stage saves its whole state as it goes and continues from it. A step's data depend on (stage, seed, step) alone.
"""

import csv
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from mtdiff.backbones.base import Backbone
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.metrics.alexnet import lpips_alex
from mtdiff.rng import numpy_rng, torch_rng
from mtdiff.training.module import scale_learning_rate
from mtdiff.types import Condition, Record, Split

log = logging.getLogger(__name__)


class Stage(ABC):
    """One network to train: how it is built, what a step sees, and what it pays for."""

    model: Any

    @abstractmethod
    def batch(self, step: int) -> Any: ...

    @abstractmethod
    def loss(self, batch: Any) -> dict[str, Tensor]:
        """Scalars by name; the one called `loss` is minimised."""


def train(
    stage: Stage,
    folder: Path,
    steps: int,
    lr: float,
    *,
    weight_decay: float = 0.01,
    warmup: int = 200,
    decay: float = 0.3,
    ema_decay: float = 0.999,
    log_every: int = 50,
    save_every_s: float = 120.0,
    sample: Callable[[int], None] | None = None,
    sample_every: int = 1000,
) -> float:
    """Train `stage.model` in place, resuming from `folder`; leaves it holding the EMA weights.

    Returns the seconds spent, those of earlier sittings included.
    """
    folder.mkdir(parents=True, exist_ok=True)
    params = [p for p in stage.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
    ema = EMAModel(params, decay=ema_decay, use_ema_warmup=True, power=0.75)
    start, seconds, state_path = 0, 0.0, folder / "state.pt"
    if state_path.exists():
        state = torch.load(state_path, weights_only=True)
        stage.model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        start, seconds = state["step"], state["seconds"]
    device = params[0].device
    began = saved = time.monotonic()
    sums: dict[str, float] = {}

    def save(step: int) -> None:
        state = {
            "model": stage.model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "ema": ema.state_dict(),
            "step": step,
            "seconds": seconds + time.monotonic() - began,
        }
        torch.save(state, state_path.with_suffix(".tmp"))
        state_path.with_suffix(".tmp").replace(state_path)

    for step in range(start, steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * scale_learning_rate(step, steps, warmup, decay)
        batch = stage.batch(step)
        with torch.autocast(device.type, torch.bfloat16):
            losses = stage.loss(batch)
        optimizer.zero_grad()
        losses["loss"].backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        ema.step(params)
        for k, v in losses.items():
            sums[k] = sums.get(k, 0.0) + v.item()
        if (step + 1) % log_every == 0:
            row = {"step": step + 1, "seconds": round(seconds + time.monotonic() - began, 1)}
            row |= {k: round(v / log_every, 5) for k, v in sums.items()}
            _append(folder / "log.csv", row)
            log.info("%s %s", folder.name, row)
            sums = {}
        if sample is not None and (step + 1) % sample_every == 0:
            ema.store(params)
            ema.copy_to(params)
            sample(step + 1)
            ema.restore(params)
        if time.monotonic() - saved > save_every_s or step + 1 == steps:
            save(step + 1)
            saved = time.monotonic()
    seconds += time.monotonic() - began
    ema.copy_to(params)
    return seconds


def _append(path: Path, row: dict[str, Any]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as f:
        writer = csv.DictWriter(f, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def to_float(images: Tensor) -> Tensor:
    """uint8 pictures -> [-1, 1]."""
    return images.float() / 127.5 - 1


class Records:
    """Pictures of the given splits in a random order: a share of plain portraits, the rest as the source draws them."""

    def __init__(self, source: EmojiSource, splits: tuple[Split, ...], seed: int, portraits: float) -> None:
        self.source, self.seed, self.share = source, seed, portraits
        self.splits = splits
        self.portraits = [p for s in splits for p in source.portraits(s)]

    def __call__(self, *key: int | str) -> Record:
        rng = numpy_rng(self.seed, *key)
        if rng.random() < self.share:
            return self.plain(int(rng.integers(len(self.portraits))))
        split = self.splits[rng.integers(len(self.splits))]
        return self.source.record("picture", split, int(rng.integers(self.source.size("picture", split))), rng)

    def plain(self, index: int) -> Record:
        portrait = self.portraits[index]
        return self.source.portrait(portrait.style, portrait.stem)

    def batch(self, size: int, *key: int | str) -> tuple[Tensor, list[str]]:
        """(size, 3, H, W) in [-1, 1] and the captions."""
        records = [self(*key, i) for i in range(size)]
        return to_float(torch.stack([r.image for r in records])), [r.caption for r in records]


class Autoencoder(Stage):
    def __init__(self, records: Records, channels: tuple[int, ...], batch: int, lpips: float, kl: float) -> None:
        levels = len(channels)
        self.model = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=16,
            sample_size=64,
            scaling_factor=1.0,
        )
        self.records, self.size, self.lpips_weight, self.kl_weight = records, batch, lpips, kl
        self.perceptual = lpips_alex()

    def batch(self, step: int) -> Tensor:
        return self.records.batch(self.size, "autoencoder", step)[0]

    def loss(self, batch: Tensor) -> dict[str, Tensor]:
        posterior = self.model.encode(batch).latent_dist
        out = self.model.decode(posterior.sample()).sample.float()
        mse = (out - batch).pow(2).mean()
        perceptual = self.perceptual(out, batch).mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()  # per latent number
        total = 10 * mse + self.lpips_weight * perceptual + self.kl_weight * kl
        return {"loss": total, "mse": mse, "lpips": perceptual, "kl": kl}


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold a shift and scale per channel into the 1x1 convolutions beside the latent: zero mean, unit variance.

    Diffusers' own scaling factor is one number for all channels; this gives the denoiser whitened channels and leaves
    the reconstruction as it was.
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    z = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    channels = len(mean)
    post.bias += torch.einsum("oi,i->o", post.weight[:, :, 0, 0], mean)
    post.weight *= std.view(1, -1, 1, 1)
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()


def train_tokenizer(texts: list[str], folder: Path, vocabulary: int, length: int) -> CLIPTokenizer:
    """Byte-level BPE as CLIP has it, trained on the texts with the `tokenizers` library."""
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    trained = json.loads(bpe.to_str())["model"]
    vocab = dict(trained["vocab"])
    for letter in alphabet:  # any byte must end a word, else unseen words become unknown
        vocab.setdefault(letter + "</w>", len(vocab))
    merges = [tuple(m) for m in trained["merges"]]
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=length)
    tokenizer.save_pretrained(folder)
    return tokenizer


class Contrastive(Stage):
    """CLIP: each picture must find its caption in the batch, and each caption its picture."""

    def __init__(
        self, name: str, records: Records, tokenizer: CLIPTokenizer, config: dict[str, Any], batch: int
    ) -> None:
        self.name, self.records, self.tokenizer, self.size = name, records, tokenizer, batch
        ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        ids["pad_token_id"] = tokenizer.pad_token_id
        text = {"vocab_size": len(tokenizer), "max_position_embeddings": tokenizer.model_max_length, **ids}
        self.model = CLIPModel(
            CLIPConfig(
                text_config={**config["text"], **text},
                vision_config={"image_size": 64, **config["vision"]},
                projection_dim=config["projection_dim"],
            )
        )

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        images, captions = self.records.batch(self.size, self.name, step)
        return images, tokenize(self.tokenizer, captions)

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        images, ids = batch
        out = self.model(input_ids=ids, pixel_values=images)
        logits = out.logits_per_text.float()  # (B, B)
        target = torch.arange(len(logits), device=logits.device)
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        return {"loss": loss, "accuracy": (logits.argmax(1) == target).float().mean()}


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """(B, L) token ids, padded and cut to the model's length."""
    length = tokenizer.model_max_length
    return tokenizer(texts, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


class LatentCache:
    """Latents and captions of the plain portraits and of many drawn pictures, encoded once: latents (n, 4, h, w)."""

    def __init__(self, path: Path, vae: AutoencoderKL, records: Records, drawn: int) -> None:
        captions_path = path.with_suffix(".json")
        if not captions_path.exists():
            self._build(path, vae, records, drawn)
        self.latents = load_file(path)["latents"]
        self.captions: list[str] = json.loads(captions_path.read_text())
        self.portraits = len(records.portraits)

    @staticmethod
    @torch.no_grad()
    def _build(path: Path, vae: AutoencoderKL, records: Records, drawn: int) -> None:
        def pictures() -> Iterator[Record]:
            yield from (records.plain(i) for i in range(len(records.portraits)))
            yield from (records("latents", i) for i in range(drawn))

        latents, captions, part = [], [], []
        for i, record in enumerate(pictures(), 1):
            part.append(record)
            if len(part) == 64 or i == len(records.portraits) + drawn:
                images = to_float(torch.stack([r.image for r in part])).to(vae.device)
                with torch.autocast(vae.device.type, torch.bfloat16):
                    latents.append(vae.encode(images).latent_dist.mean.half().cpu())
                captions += [r.caption for r in part]
                part = []
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"latents": torch.cat(latents).contiguous()}, path)
        path.with_suffix(".json").write_text(json.dumps(captions))

    def batch(self, size: int, portraits: float, dropout: float, key: tuple[str, int, int]) -> tuple[Tensor, list[str]]:
        """Latents (size, 4, h, w) and captions, some of them empty; a share of plain portraits.

        key: stage, seed and step, which all of it depends on.
        """
        stage, seed, step = key
        rng, n, total = numpy_rng(seed, stage, step), self.portraits, len(self.captions)
        plain = rng.random(size) < portraits
        index = np.where(plain, rng.integers(n, size=size), rng.integers(n, total, size=size))
        dropped = rng.random(size) < dropout
        captions = ["" if d else self.captions[i] for i, d in zip(index, dropped, strict=True)]
        return self.latents[torch.from_numpy(index)].float(), captions


def noise_schedule() -> DDIMScheduler:
    """Stable Diffusion's betas, v-prediction, rescaled to zero terminal SNR (arXiv 2305.08891)."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


class LatentDenoiser(Stage):
    def __init__(
        self,
        cache: LatentCache,
        embed: Callable[[list[str]], Tensor],
        channels: tuple[int, ...],
        heads: int,
        width: int,
        batch: int,
        seed: int,
        portraits: float,
        dropout: float = 0.1,
    ) -> None:
        levels = len(channels)
        self.model = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D",) * levels,
            up_block_types=("CrossAttnUpBlock2D",) * levels,
            cross_attention_dim=width,
            attention_head_dim=heads,
            norm_num_groups=16,
        )
        self.cache, self.embed, self.size, self.seed = cache, embed, batch, seed
        self.portraits, self.dropout = portraits, dropout
        self.schedule = noise_schedule()

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z, captions = self.cache.batch(self.size, self.portraits, self.dropout, ("denoiser", self.seed, step))
        generator = torch_rng(self.seed, "denoiser", step)
        noise = torch.randn(z.shape, generator=generator)
        t = torch.randint(self.schedule.config.num_train_timesteps, (self.size,), generator=generator)
        return z, noise, t, self.embed(captions)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        z, noise, t, text = batch
        noisy, target = self.schedule.add_noise(z, noise, t), self.schedule.get_velocity(z, noise, t)
        out = self.model(noisy, t, text).sample.float()
        return {"loss": (out - target).pow(2).mean()}


class TransformerDenoiser(Stage):
    """The denoiser of a whole backbone, on latents and text of that backbone's own, as its noise schedule says."""

    def __init__(
        self, cache: LatentCache, backbone: Backbone, batch: int, seed: int, portraits: float, dropout: float = 0.1
    ) -> None:
        self.model, self.backbone, self.diffusion = backbone.denoiser, backbone, Diffusion(backbone.scheduler)
        self.cache, self.size, self.seed, self.portraits, self.dropout = cache, batch, seed, portraits, dropout

    def batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Condition]:
        z, captions = self.cache.batch(self.size, self.portraits, self.dropout, ("transformer", self.seed, step))
        generator = torch_rng(self.seed, "transformer", step)
        noise, t = torch.randn(z.shape, generator=generator), self.diffusion.times(self.size, generator)
        return z, noise, t, prompted(self.backbone, captions)

    def loss(self, batch: tuple[Tensor, Tensor, Tensor, Condition]) -> dict[str, Tensor]:
        condition = batch[3]
        z, noise, t = (x.to(condition.source.device) for x in batch[:3])
        out = self.backbone.predict(self.diffusion.noisy(z, noise, t), t, condition)
        return {"loss": (out.float() - self.diffusion.target(z, noise, t)).pow(2).mean()}


def prompted(backbone: Backbone, prompts: list[str]) -> Condition:
    """Prompts alone, without a source picture."""
    text = backbone.embed(prompts)
    source = text.tokens.new_zeros(len(prompts), *backbone.latent_shape)
    task = torch.zeros(len(prompts), dtype=torch.long, device=source.device)
    return Condition(source, torch.ones_like(source[:, :1]), text.tokens, task, text.extra)


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Per picture, in dB, of pictures (B, 3, H, W) in [-1, 1] after clipping: (B,)."""
    mse = (a.clamp(-1, 1) - b.clamp(-1, 1)).pow(2).mean((1, 2, 3)) / 4
    return -10 * mse.clamp_min(1e-10).log10()


def own(generated: Tensor, truth: Tensor, embed: nn.Module) -> Tensor:
    """(B,) bool: whether the nearest neighbour of a picture (B, 3, H, W), by cosine, among all true ones is its own."""
    a, b = (nn.functional.normalize(embed(x), dim=1) for x in (generated, truth))
    return (a @ b.T).argmax(1) == torch.arange(len(a), device=a.device)


def retrieval(generated: Tensor, truth: Tensor, embed: nn.Module) -> float:
    """Share of generated pictures that find their `own`."""
    return own(generated, truth, embed).float().mean().item()


def count_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
