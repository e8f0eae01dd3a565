"""A training loop written with diffusers and torch alone, after diffusers' example of InstructPix2Pix.

Letters: B batch, C latent channels, h w latent size, L text tokens, D text width.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from torch import nn

from mtdiff.types import Batch


class BareLoop:
    """Encode target, source and prompt, noise, predict, mean squared error, clip, AdamW; everything is trained.

    parts: a Stable Diffusion, from which autoencoder and text encoder are copied; the UNet has its shape, with source
    and mask as further input channels, and random weights. dtype: of the autocast, None for none.
    """

    def __init__(
        self, parts: Any, optimizer: Mapping[str, Any], clip: float | None, dtype: torch.dtype | None, device: str
    ) -> None:
        self.device, self.clip, self.dtype = device, clip, dtype
        self.vae, self.text_encoder = (copy.deepcopy(p).to(device) for p in (parts.vae, parts.text_encoder))
        self.tokenizer, self.schedule = parts.tokenizer, DDPMScheduler.from_config(parts.scheduler.config)
        shape = {**parts.denoiser.config, "in_channels": 2 * parts.latent_shape[0] + 1}
        self.unet = UNet2DConditionModel.from_config(shape).to(device).train()
        self.unet.set_attn_processor(next(iter(parts.denoiser.attn_processors.values())))
        self.optimizer = torch.optim.AdamW(self.unet.parameters(), **optimizer)

    def step(self, batch: Batch) -> float:
        """One optimiser step; returns the loss."""
        batch = batch.to(self.device)
        with torch.autocast(torch.device(self.device).type, self.dtype, enabled=self.dtype is not None):
            with torch.no_grad():
                factor = self.vae.config["scaling_factor"]
                latent = self.vae.encode(batch.target).latent_dist.mode() * factor  # (B, C, h, w)
                source = self.vae.encode(batch.source).latent_dist.mode() * factor
                ids = self.tokenizer(batch.prompt, padding="max_length", truncation=True, return_tensors="pt").input_ids
                text = self.text_encoder(ids.to(self.device))[0]  # (B, L, D)
            noise = torch.randn_like(latent)
            t = torch.randint(self.schedule.config["num_train_timesteps"], (len(latent),), device=self.device)
            noisy = self.schedule.add_noise(latent, noise, t)
            mask = nn.functional.interpolate(batch.mask, latent.shape[-2:])
            seen = torch.cat([noisy, source, mask], 1)  # (B, 2C + 1, h, w)
            out = self.unet(seen, t, encoder_hidden_states=text).sample
            v = self.schedule.config["prediction_type"] == "v_prediction"
            target = self.schedule.get_velocity(latent, noise, t) if v else noise
            loss = nn.functional.mse_loss(out.float(), target.float())
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.unet.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())
