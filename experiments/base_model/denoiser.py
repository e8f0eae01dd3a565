"""The denoisers: a U-Net or a transformer on the latents, v-prediction (arXiv 2202.00512), uniform weights.

Letters: B batch, C latent channels, h w latent size, L text tokens, D text width, F features of a picture tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPModel

from base_model.latents import Encoded, Look, Mixture
from base_model.loop import Stage
from mtdiff.backbones.base import Backbone
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.backbones.latent import LatentBackbone
from mtdiff.rng import numpy_rng, torch_rng
from mtdiff.types import Condition, Text


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A U-Net. channels: width of each level. attention: at which levels transformer blocks stand."""

    channels: Sequence[int]
    attention: Sequence[bool]
    heads: int = 2


def make_unet(shape: Shape, latent: tuple[int, int, int], text_width: int) -> UNet2DConditionModel:
    """A new U-Net with one layer a block, for latents (C, h, w)."""
    down = ["CrossAttnDownBlock2D" if block else "DownBlock2D" for block in shape.attention]
    up = ["CrossAttnUpBlock2D" if block else "UpBlock2D" for block in reversed(shape.attention)]
    return UNet2DConditionModel(
        sample_size=latent[1],
        in_channels=latent[0],
        out_channels=latent[0],
        block_out_channels=tuple(shape.channels),
        layers_per_block=1,
        down_block_types=tuple(down),
        up_block_types=tuple(up),
        cross_attention_dim=text_width,
        attention_head_dim=shape.heads,
        norm_num_groups=16,
    )


def make_schedule() -> DDIMScheduler:
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


def make_condition(backbone: Backbone, text: Text) -> Condition:
    """Prompts alone, without a source picture."""
    source = text.tokens.new_zeros(len(text.tokens), *backbone.latent_shape)
    task = torch.zeros(len(source), dtype=torch.long, device=source.device)
    return Condition(source, torch.ones_like(source[:, :1]), text.tokens, task, text.extra)


class LatentDenoiser(Stage):
    """The denoiser of a backbone, on latents and text of that backbone's own, as its noise schedule says."""

    def __init__(self, backbone: LatentBackbone, encoded: Encoded, mixture: Mixture, batch: int, seed: int) -> None:
        self.model, self.backbone, self.encoded = backbone.denoiser, backbone, encoded
        self.diffusion, self.mixture, self.size, self.seed = Diffusion(backbone.scheduler), mixture, batch, seed

    def draw_batch(self, step: int) -> tuple[Tensor, Tensor, Tensor, Condition]:
        """Places (B,), noise (B, C, h, w), times (B,), condition."""
        index, text = self.encoded.draw_rows(self.size, self.mixture, numpy_rng(self.seed, "denoiser", step))
        generator = torch_rng(self.seed, "denoiser", step)
        noise = torch.randn(self.size, *self.backbone.latent_shape, generator=generator)
        return index, noise, self.diffusion.times(self.size, generator), make_condition(self.backbone, text)

    def compute_losses(self, batch: tuple[Tensor, Tensor, Tensor, Condition]) -> dict[str, Tensor]:
        index, noise, t, condition = batch
        device = next(self.model.parameters()).device
        z, noise, t = self.encoded.latents[index].float().to(device), noise.to(device), t.to(device)
        out = self.backbone.predict(self.diffusion.noisy(z, noise, t), t, condition.to(device))
        return {"loss": (out.float() - self.diffusion.target(z, noise, t)).pow(2).mean()}


class AlignedDenoiser(LatentDenoiser):
    """Its middle stage, through a small head, has to agree with a picture tower on the clean picture.

    1 - cos of every place of the middle stage, times `weight`, is added to the loss (REPA, arXiv 2410.06940; for U-Nets
    as in U-REPA, 2503.18414). The tower is that of the training CLIP, never of the one that measures.
    """

    def __init__(self, *stage: object, weight: float, **options: object) -> None:
        super().__init__(*stage, **options)  # type: ignore[arg-type]
        assert self.encoded.looks is not None
        unet: UNet2DConditionModel = self.backbone.denoiser
        wide, middle = self.encoded.looks.shape[1], unet.config["block_out_channels"][-1]
        self.head = nn.Sequential(nn.Conv2d(middle, 256, 1), nn.SiLU(), nn.Conv2d(256, wide, 1))
        self.weight, self.joined = weight, nn.ModuleList([self.model, self.head])
        unet.mid_block.register_forward_hook(self._keep_middle)

    @property
    def network(self) -> nn.Module:
        return self.joined

    def _keep_middle(self, module: nn.Module, given: object, out: Tensor) -> None:
        self.middle = out

    def compute_losses(self, batch: tuple[Tensor, Tensor, Tensor, Condition]) -> dict[str, Tensor]:
        losses = super().compute_losses(batch)
        looks = self.encoded.looks[batch[0]].to(self.middle)  # type: ignore[index]
        apart = 1 - nn.functional.cosine_similarity(self.head(self.middle), looks, dim=1).float().mean()
        return {"loss": losses["loss"] + self.weight * apart, "denoising": losses["loss"], "apart": apart}


def make_look(clip: CLIPModel, side: int) -> Look:
    """Pictures (B, 3, H, W) -> patch features (B, F, side, side) of a CLIP's picture tower, averaged over patches."""

    def look(pictures: Tensor) -> Tensor:
        patches = clip.vision_model(pixel_values=pictures).last_hidden_state[:, 1:].transpose(1, 2)  # (B, F, patches)
        grid = patches.unflatten(2, (round(patches.shape[2] ** 0.5), -1))
        return nn.functional.adaptive_avg_pool2d(grid.float(), side)

    return look
