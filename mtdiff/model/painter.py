"""The one way to draw: an adapted denoiser under guidance and a sampler, from noise to pictures.

Letters: B batch, C latent channels, H W pixels, h w latent size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtdiff.model.conditioning import encode_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.sampling import Guidance, Known, guide, make_scheduler, paste_known, sample
from mtdiff.rng import torch_rng
from mtdiff.types import Batch, Condition

Draw = Callable[[Batch, Tensor], Tensor]  # batch, noise (B, C, h, w) -> pictures (B, 3, H, W)


def first_noise(batch: Batch, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Draw noise (B, C, h, w) from each example's key alone, so that every method starts from the same."""
    return torch.stack([torch.randn(shape, generator=torch_rng(seed, "noise", key)) for key in batch.key])


@dataclass(frozen=True, eq=False, kw_only=True)
class Painter:
    """Draws pictures of any of a denoiser's tasks, where its weights are now.

    guidance: scales by task; a task that is not named has none. sampler: one of `SAMPLERS`. steps: calls of it.
    keep_known: what is known of an answer, the source around a hole, is held to while drawing and is pasted at the end.
    """

    denoiser: Denoiser
    guidance: Mapping[str, Guidance]
    sampler: str
    steps: int
    keep_known: bool = True

    @torch.no_grad()
    def draw(self, batch: Batch, noise: Tensor) -> Tensor:
        """Draw pictures (B, 3, H, W) in [-1, 1] for a batch of any tasks, from noise (B, C, h, w)."""
        batch = batch.to(self.denoiser.device)
        condition = encode_condition(self.denoiser.backbone, batch)
        pictures = self.denoiser.backbone.decode(self.draw_latents(condition, noise.to(self.denoiser.device)))
        return paste_known(pictures, batch.source, batch.mask) if self.keep_known else pictures

    @torch.no_grad()
    def draw_latents(self, condition: Condition, noise: Tensor) -> Tensor:
        """Draw latents (B, C, h, w) for an encoded condition, from noise of that shape."""
        backbone, tasks = self.denoiser.backbone, self.denoiser.tasks
        scales = [self.guidance.get(tasks[k], Guidance()) for k in condition.task.tolist()]
        guided = guide(condition, backbone.embed([""]), scales)
        known = Known.of(condition) if self.keep_known else None
        return sample(self.denoiser, make_scheduler(self.sampler, backbone.scheduler), guided, noise, self.steps, known)
