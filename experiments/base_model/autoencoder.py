"""The autoencoder: squared error + LPIPS + a little KL (Rombach et al., arXiv 2112.10752, without the adversary).

LPIPS(alex) is a term of the loss, so that it flatters this part when it judges it: PSNR and SSIM stand beside it.

Letters: B batch, C latent channels, h w latent size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from skimage.metrics import structural_similarity
from torch import Tensor

from base_model.loop import Stage
from base_model.records import Records
from mtdiff.metrics.alexnet import lpips_alex
from mtdiff.rng import numpy_rng


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Weights of the terms. turned: share of batches whose latents are halved or turned, and must decode to the picture
    halved or turned alike (EQ-VAE, arXiv 2502.09509)."""

    squared: float = 10.0
    lpips: float = 0.2
    kl: float = 1e-3
    turned: float = 0.0


def make_autoencoder(channels: tuple[int, ...], latent_channels: int, size: int = 64) -> AutoencoderKL:
    """A new AutoencoderKL; each width but the first halves the side."""
    levels = len(channels)
    return AutoencoderKL(
        block_out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1,
        latent_channels=latent_channels,
        norm_num_groups=16,
        sample_size=size,
        scaling_factor=1.0,
    )


@torch.no_grad()
def copy_levels(made: AutoencoderKL, trained: AutoencoderKL) -> int:
    """Start from a trained autoencoder: the same one, or a shallower one, whose levels next to the pixels are copied.

    The decoder's levels are counted from its end. Returns how many tensors were copied; those of other shapes are left.
    """
    extra = len(made.config["block_out_channels"]) - len(trained.config["block_out_channels"])
    own, copied = made.state_dict(), 0
    for name, tensor in trained.state_dict().items():
        parts = name.split(".")
        if parts[:2] == ["decoder", "up_blocks"]:
            parts[2] = str(int(parts[2]) + extra)
        elif extra and any(part in name for part in ("mid_block", "quant_conv", "encoder.conv_norm_out")):
            continue
        target = own.get(".".join(parts))
        if target is not None and target.shape == tensor.shape:
            target.copy_(tensor)
            copied += 1
    return copied


class Autoencoder(Stage):
    """model: an AutoencoderKL, trained on pictures of `records` with posterior samples."""

    model: AutoencoderKL

    def __init__(self, model: AutoencoderKL, records: Records, batch: int, loss: Loss, seed: int) -> None:
        self.model, self.records, self.size, self.weights, self.seed = model, records, batch, loss, seed
        self.perceptual = lpips_alex().to(model.device)

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor, int]:
        """Pictures (B, 3, H, W), noise of the posterior for each (seeded by the step), and how to turn the latents."""
        pictures, _ = self.records.draw_batch(self.size, "autoencoder", step)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        side = pictures.shape[-1] // 2 ** (len(self.model.config["block_out_channels"]) - 1)
        noise = torch.randn(self.size, self.model.config["latent_channels"], side, side, generator=generator)
        rng = numpy_rng(self.seed, "turned", step)
        return pictures, noise, int(rng.integers(1, 5)) if rng.random() < self.weights.turned else 0

    def compute_losses(self, batch: tuple[Tensor, Tensor, int]) -> dict[str, Tensor]:
        pictures, noise, turn = batch
        pictures = pictures.to(self.model.device)
        posterior = self.model.encode(pictures).latent_dist
        z = posterior.mean + posterior.std * noise.to(pictures)
        if turn:
            z, pictures = transform(z, turn), transform(pictures, turn)
        out = self.model.decode(z).sample.float()
        squared = (out - pictures).pow(2).mean()
        perceptual = self.perceptual(out, pictures).mean()
        kl = posterior.kl().mean() / posterior.mean[0].numel()  # per latent number
        w = self.weights
        total = w.squared * squared + w.lpips * perceptual + w.kl * kl
        return {"loss": total, "mse": squared, "lpips": perceptual, "kl": kl}


def transform(x: Tensor, turn: int) -> Tensor:
    """A quarter turn (1 to 3 of them), or 4: half the side; of latents and of pictures alike, (B, C, H, W)."""
    if turn < 4:
        return torch.rot90(x, turn, (2, 3))
    return torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True)


def freeze_encoder(vae: AutoencoderKL) -> None:
    """Keep the latents as they are: from here on the decoder alone learns, beside denoisers of these latents."""
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)


@torch.no_grad()
def standardise(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Fold a shift and scale per channel into the 1x1 convolutions beside the latent: zero mean, unit variance.

    Diffusers' own scaling factor is one number for all channels; this gives the denoiser whitened channels and leaves
    the reconstruction as it was.
    """
    quant, post = vae.quant_conv, vae.post_quant_conv
    z = torch.cat([vae.encode(part.to(vae.device)).latent_dist.mean for part in pictures.split(64)])
    mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
    channels = len(mean)
    post.bias += torch.einsum("oi,i->o", post.weight[:, :, 0, 0], mean)
    post.weight *= std.view(1, -1, 1, 1)
    quant.weight[:channels] /= std.view(-1, 1, 1, 1)
    quant.bias[:channels] = (quant.bias[:channels] - mean) / std
    quant.bias[channels:] -= 2 * std.log()


def measure_floor(vae: AutoencoderKL, pictures: Tensor) -> dict[str, float]:
    """How well pictures (n, 3, H, W) in [-1, 1] come back from their latents' means: PSNR in dB, SSIM, LPIPS(alex)."""
    rows = [row for part in pictures.split(64) for row in _judge_pictures(vae, part)]
    means = torch.tensor(rows, dtype=torch.float64).mean(0).tolist()
    return {name: round(mean, 5) for name, mean in zip(("psnr_db", "ssim", "lpips_alex"), means, strict=True)}


@torch.no_grad()
def _judge_pictures(vae: AutoencoderKL, part: Tensor) -> Iterator[tuple[float, float, float]]:
    part = part.to(vae.device)
    out = vae.decode(vae.encode(part).latent_dist.mean).sample.clamp(-1, 1)
    distances = lpips_alex().to(vae.device)(out, part).flatten().tolist()
    squared = (out - part).pow(2).mean((1, 2, 3)) / 4
    decibels = (-10 * squared.clamp_min(1e-10).log10()).tolist()
    for a, b, db, distance in zip(out.cpu().numpy(), part.cpu().numpy(), decibels, distances, strict=True):
        yield db, float(structural_similarity(a, b, channel_axis=0, data_range=2.0)), distance


def load_autoencoder(folder: Path) -> AutoencoderKL:
    return AutoencoderKL.from_pretrained(folder).eval().requires_grad_(False)
