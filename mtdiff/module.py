"""The LightningModule: encode, noise, predict, average per task. Formulas live in the rooms it calls."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor

from mtdiff.conditioning import Dropout, encode_condition
from mtdiff.denoiser import Denoiser
from mtdiff.diffusion import Diffusion
from mtdiff.rng import torch_rng
from mtdiff.sampling import Guidance, guide, make_scheduler, sample
from mtdiff.types import Batch, Condition, Text


def per_task_mean(losses: Tensor, task: Tensor, tasks: int) -> tuple[Tensor, Tensor]:
    """losses (B,), task (B,) -> mean per task (T,), 0 where a task is absent, and the samples of each task (T,)."""
    count = torch.zeros(tasks, device=losses.device).index_add_(0, task, torch.ones_like(losses))
    total = torch.zeros(tasks, device=losses.device).index_add_(0, task, losses)
    return total / count.clamp_min(1), count


def learning_rate_scale(step: int, steps: int, warmup: int, decay: float) -> float:
    """Warm-up, plateau, then a linear decay over the last `decay` share of the steps."""
    tail = round(decay * steps)
    falling = max(0.0, (steps - step) / tail) if tail > 0 else 1.0
    return min(1.0, (step + 1) / max(1, warmup), falling)


class MultiTaskModule(lightning.LightningModule):
    """Trains a Denoiser on batches that mix tasks. The loss is the sum over tasks of the mean prediction error (MTU).

    optimizer: `lr`, `weight_decay`, `betas`, `steps`, `warmup` in steps, `decay`, a share of the steps; AdamW.
    guidance: scales per task name. sampling: `sampler` and `steps`.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        optimizer: Mapping[str, Any],
        guidance: Mapping[str, Guidance],
        sampler: str = "ddim",
        sampling_steps: int = 20,
        dropout: Dropout | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.denoiser, self.tasks, self.seed = denoiser, denoiser.tasks, seed
        self.optimizer_options, self.guidance = dict(optimizer), dict(guidance)
        self.sampler, self.sampling_steps = sampler, sampling_steps
        self.dropout = dropout or Dropout()
        self.diffusion = Diffusion(denoiser.backbone.scheduler)
        self._empty: Text | None = None
        self.strict_loading = False  # a checkpoint holds what is trained, not the frozen base

    # Training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        generator = torch_rng(self.seed, "step", batch_idx, self.global_rank)
        per_sample = self.losses(batch, generator, self.dropout)  # (B,)
        means, count = per_task_mean(per_sample, batch.task, len(self.tasks))
        loss = means.sum()
        for name, value, n in zip(self.tasks, means.detach(), count, strict=True):
            if n > 0:
                self.log(f"train/loss/{name}", value, batch_size=int(n))
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(batch))
        return loss

    def losses(self, batch: Batch, generator: torch.Generator, dropout: Dropout | None = None) -> Tensor:
        """Prediction error of every sample, (B,). All draws come from `generator`, on the CPU."""
        backbone = self.denoiser.backbone
        latent = backbone.encode(batch.target)
        condition = encode_condition(backbone, batch)
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        t = self.diffusion.times(len(batch), generator).to(latent.device)
        if dropout is not None:
            condition = dropout(condition, self.empty_text(), generator)
        out = self.denoiser(self.diffusion.noisy(latent, noise, t), t, condition)
        return (out.float() - self.diffusion.target(latent, noise, t)).pow(2).mean((1, 2, 3))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        per_sample = self.losses(batch, torch_rng(self.seed, "validation", batch_idx))
        means, count = per_task_mean(per_sample, batch.task, len(self.tasks))
        for name, value, n in zip(self.tasks, means, count, strict=True):
            if n > 0:
                self.log(f"validation/loss/{name}", value, batch_size=int(n), sync_dist=True)

    def configure_optimizers(self) -> Any:
        options = dict(self.optimizer_options)
        shape = [options.pop(key, default) for key, default in (("steps", 1), ("warmup", 0), ("decay", 0.0))]
        trained = [p for p in self.denoiser.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, **options)  # not fused: Lightning cannot clip its gradients
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_scale(step, *shape))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"] = {f"denoiser.backbone.denoiser.{k}": v for k, v in self.denoiser.adapter().items()}

    # Generation

    def empty_text(self) -> Text:
        """The empty prompt, encoded once."""
        if self._empty is None or self._empty.tokens.device != self.device:
            self._empty = self.denoiser.backbone.embed([""])
        return self._empty

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Tensor, guidance: Mapping[str, Guidance] | None = None) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] for a batch of any tasks, from noise (B, C, h, w)."""
        condition = encode_condition(self.denoiser.backbone, batch)
        latents = self.generate_latents(condition, noise, guidance)
        return self.denoiser.backbone.decode(latents)

    def generate_latents(
        self, condition: Condition, noise: Tensor, guidance: Mapping[str, Guidance] | None = None
    ) -> Tensor:
        """(B, C, h, w)."""
        table = {**self.guidance, **(guidance or {})}
        scales = [table.get(self.tasks[k], Guidance()) for k in condition.task.tolist()]
        scheduler = make_scheduler(self.sampler, self.denoiser.backbone.scheduler)
        guided = guide(condition, self.empty_text(), scales)
        return sample(self.denoiser, scheduler, guided, noise, self.sampling_steps)
