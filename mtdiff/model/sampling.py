"""Sampling with double guidance through diffusers' schedulers, for batches that mix tasks.

e = e(0,0) + s_I [e(I,0) - e(0,0)] + s_T [e(I,T) - e(I,0)]      (InstructPix2Pix, arXiv 2211.09800, eq. 3)

Collected by prediction: (1 - s_I) e(0,0) + (s_I - s_T) e(I,0) + s_T e(I,T). Every sample has scales of its own, and a
prediction whose coefficient is zero is not computed; so a sample without guidance (1, 1) costs one prediction a step,
and one without a source image (1, s_T) costs two.

Letters: B batch, K predictions in all, C latent channels, h w latent size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.methods.process import Course, Held
from mtdiff.model.conditioning import empty_extra
from mtdiff.types import Condition, Text

SAMPLERS = ("ddim", "dpm++", "ddpm")
MIXING = ("ddim", "ddpm")
"""Samplers whose step has a form for a process that mixes further modalities."""
Denoise = Callable[[Tensor, Tensor, Condition], Tensor]


@dataclass(frozen=True)
class Guidance:
    """Scales of one task: image s_I, text s_T; 1 and 1 is no guidance."""

    image: float = 1.0
    text: float = 1.0

    def __post_init__(self) -> None:
        for name, scale in (("image", self.image), ("text", self.text)):
            if not isfinite(scale):
                raise ValueError(f"guidance.{name}={scale}: expected a finite number")


@dataclass(frozen=True)
class Guided:
    """Rows to predict for one guided batch. condition: K rows; sample (K,) their place in the batch; weight (K,)."""

    condition: Condition
    sample: Tensor
    weight: Tensor

    def __call__(self, denoise: Denoise, x: Tensor, t: Tensor) -> Tensor:
        """x (B, C, h, w), t () -> guided prediction (B, C, h, w)."""
        out = denoise(x[self.sample], t.expand(len(self.sample)).to(x.device), self.condition)  # (K, C, h, w)
        weighted = out.float() * self.weight.view(-1, 1, 1, 1)
        return torch.zeros_like(x).index_add_(0, self.sample, weighted)

    def last_rows(self, number: int) -> Tensor:
        """The row (B,) of each of so many samples that is given most."""
        rows = torch.arange(len(self.sample), device=self.sample.device)
        return rows.new_zeros(number).scatter_reduce_(0, self.sample, rows, "amax")


def drop_conditions(condition: Condition, empty: Text) -> tuple[Condition, Condition]:
    """Return the conditions (0, 0) and (I, 0). empty: the encoded empty prompt, one row."""
    n = len(condition)
    text = {
        "text": empty.tokens.expand(n, -1, -1),
        "extra": {k: v.expand(n, *v.shape[1:]) for k, v in empty_extra(condition, empty).items()},
    }
    blank = {"source": torch.zeros_like(condition.source), "mask": torch.ones_like(condition.mask)}
    image_only = replace(condition, **text)  # type: ignore[arg-type]
    return replace(image_only, **blank), image_only  # type: ignore[arg-type]


def guide(condition: Condition, empty: Text, scales: list[Guidance]) -> Guided:
    """Stack what has to be predicted for every sample under its own scales (one entry of `scales` a sample)."""
    image = torch.tensor([s.image for s in scales], dtype=torch.float32)
    text = torch.tensor([s.text for s in scales], dtype=torch.float32)
    weights = torch.cat([1 - image, image - text, text])  # (3B,), in the order (0,0), (I,0), (I,T)
    rows = weights.nonzero().flatten()
    nothing, image_only = drop_conditions(condition, empty)
    stacked = Condition.cat([nothing, image_only, condition])
    device = condition.source.device
    sample = (rows % len(condition)).to(device)
    return Guided(stacked[rows.to(device)], sample, weights[rows].to(device))


def make_scheduler(name: str, base: Any) -> Any:
    """Make a sampler of the base's own noise schedule.

    `ddim` (2010.02502), `dpm++` (DPM-Solver++ 2M, 2211.01095) or `ddpm` (2006.11239, with the posterior's variance).
    """
    if name not in SAMPLERS:
        raise ValueError(f"sampling.sampler={name!r}: expected one of {', '.join(SAMPLERS)}")
    if isinstance(base, FlowMatchEulerDiscreteScheduler):
        return FlowMatchEulerDiscreteScheduler.from_config(base.config)
    if name == "ddim":
        return DDIMScheduler.from_config(base.config)
    if name == "ddpm":
        return DDPMScheduler.from_config(base.config, variance_type="fixed_small")
    return DPMSolverMultistepScheduler.from_config(base.config, algorithm_type="dpmsolver++")


def check_mixing(sampler: str, **faster: Any) -> None:
    """Refuse sampling that has no form for a process that mixes further modalities.

    faster: options of sampling by which some steps are not computed whole, by name; None where they are not used.
    """
    if sampler not in MIXING:
        raise ValueError(
            f"sampling.sampler={sampler}: has no form for a method that mixes modalities into the noise, "
            f"expected {' or '.join(MIXING)}"
        )
    for name, value in faster.items():
        if value is not None:
            raise ValueError(f"sampling.{name}: expected null, since this method guesses anew at every step")


def check_not_flow(base: Any) -> None:
    """Refuse the base of a flow under such a process. base: its scheduler."""
    if isinstance(base, FlowMatchEulerDiscreteScheduler):
        raise ValueError("method: mixes modalities into the noise, for which the sampler of a flow has no form")


@dataclass(frozen=True)
class Known:
    """Cells of the answer that the condition tells: where some of a source is unknown, the rest of it is the answer.

    place (B, 1, h, w) bool: latent cells all of whose pixels are known, in samples with a hole. latent (B, C, h, w).
    """

    place: Tensor
    latent: Tensor

    @classmethod
    def of(cls, condition: Condition) -> "Known | None":
        """None where nothing of any answer is known."""
        place = (condition.mask == 0) & find_holes(condition.mask)
        return cls(place, condition.source) if place.any() else None

    @classmethod
    def with_held(cls, known: "Known | None", held: Held) -> "Known":
        """The same with whole pictures that are held."""
        rows, latent = held.rows.view(-1, 1, 1, 1), held.latent
        if known is None:
            return cls(rows.expand(-1, 1, *latent.shape[-2:]), latent)
        return cls(known.place | rows, torch.where(rows, latent, known.latent))

    def impose(self, x: Tensor, noise: Tensor, diffusion: Diffusion, t: Tensor | None) -> Tensor:
        """Replace the known cells of x (B, C, h, w) by what they are at time t (), under that noise; None: at the end.

        For DDIM this is the known latent's own path from `noise`; RePaint's renoising (arXiv 2201.09865) is not done.
        """
        level = self.latent if t is None else diffusion.noisy(self.latent, noise, t.expand(len(x)))
        return torch.where(self.place, level.to(x), x)


def find_holes(mask: Tensor) -> Tensor:
    """Which samples (B, 1, 1, 1) bool have a source that is known in part. mask (B, 1, H, W), above 0 where unknown."""
    unknown = mask.flatten(1) > 0
    return (unknown.any(1) & ~(mask.flatten(1) == 1).all(1)).view(-1, 1, 1, 1)


def paste_known(pictures: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """Put the known pixels of a source with a hole back into its answer, each (B, 3, H, W); mask (B, 1, H, W)."""
    known = (mask == 0) & find_holes(mask)
    return torch.where(known, source.to(pictures), pictures) if known.any() else pictures


def set_times(scheduler: Any, steps: int, device: torch.device) -> None:
    """Choose the times of so many steps by the schedule's own spacing, or evenly from its end where that fails.

    diffusers' spacings leave the schedule, or repeat a time, for some numbers of steps: `trailing` ends at -1 for 61 of
    1000, and `leading` and `linspace` have no room close to 1000.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        scheduler.set_timesteps(steps, device=device)
        return
    total = scheduler.config["num_train_timesteps"]
    try:
        scheduler.set_timesteps(steps, device=device)
        if is_falling(scheduler.timesteps, steps, total):
            if isinstance(scheduler, DDPMScheduler):  # else it takes the step to be T / steps long, whatever comes next
                scheduler.set_timesteps(timesteps=scheduler.timesteps.tolist(), device=device)
            return
    except IndexError:
        pass
    times = [round(total - i * total / steps) - 1 for i in range(steps)]
    if isinstance(scheduler, DPMSolverMultistepScheduler | DDPMScheduler):
        scheduler.set_timesteps(timesteps=times, device=device)
    else:
        scheduler.timesteps = torch.tensor(times, device=device)


def is_falling(times: Tensor, steps: int, total: int) -> bool:
    """Whether times (steps,) fall from below `total` to 0 or above."""
    whole = len(times) == steps and bool(times[0] < total) and bool(times[-1] >= 0)
    return whole and bool((times.diff() < 0).all())


def sample(
    denoise: Denoise,
    scheduler: Any,
    guided: Guided,
    noise: Tensor,
    steps: int,
    known: Known | None = None,
    course: Course | None = None,
) -> Tensor:
    """Turn noise (B, C, h, w) into latents (B, C, h, w); the same noise gives the same latents.

    known: cells that are held to what they are known to be, after every step. course: what a method's process mixes
    into the latents; x is without it.
    """
    set_times(scheduler, steps, noise.device)
    x, diffusion = noise, Diffusion(scheduler)
    later = [*scheduler.timesteps[1:], None]
    options = seed_steps(scheduler, noise)
    with torch.inference_mode():  # 0.92 of no_grad's time: mtu-nano, 32 pictures, 10 steps, bfloat16, 2 CPU cores
        for t, after in zip(scheduler.timesteps, later, strict=True):
            mixed = x if course is None else course.mix(x, t)
            # these schedulers neither scale the input nor the first noise
            prediction = guided(denoise, mixed, t)
            if course is not None:
                course.guess(guided.last_rows(len(x)), t)
                x = course.part(mixed, t)
            x = scheduler.step(prediction, t, x, **options).prev_sample
            if known is not None:
                x = known.impose(x, noise, diffusion, after)
    return x.clone()  # an ordinary tensor again


def seed_steps(scheduler: Any, noise: Tensor) -> dict[str, Any]:
    """Options of each step: where it draws noise of its own, a generator a sample, started by the first noise."""
    if not isinstance(scheduler, DDPMScheduler):
        return {}
    bits = noise.detach().float().cpu().flatten(1)[:, :2].contiguous().view(torch.int64).flatten()
    return {"generator": [torch.Generator().manual_seed(seed) for seed in bits.tolist()]}
