"""The one way to draw: an adapted denoiser under guidance and a sampler, from noise to pictures.

Letters: B batch, C latent channels, H W pixels, h w latent size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtdiff.methods.base import Method
from mtdiff.methods.process import Course
from mtdiff.model.conditioning import encode_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.drawing import Drawing, Step, Switch, map_tasks, plan_steps
from mtdiff.model.inheritance import Inheritance
from mtdiff.model.sampling import (
    Denoise,
    Guidance,
    Known,
    check_mixing,
    check_not_flow,
    guide,
    make_scheduler,
    paste_known,
    sample,
    set_times,
)
from mtdiff.rng import torch_rng
from mtdiff.types import Batch, Condition

Draw = Callable[[Batch, Tensor], Tensor]  # batch, noise (B, C, h, w) -> pictures (B, 3, H, W)


def first_noise(batch: Batch, shape: tuple[int, int, int], seed: int) -> Tensor:
    """Draw noise (B, C, h, w) from each example's key alone, so that every method starts from the same."""
    return torch.stack([torch.randn(shape, generator=torch_rng(seed, "noise", key)) for key in batch.key])


@dataclass(frozen=True)
class Drawn:
    """pictures (B, 3, H, W) in [-1, 1]; others: of other modalities, by name; numbers: (B,) int64, by name.

    asked: by the name of one of `others`, for which samples (B,) bool it was asked; a number of 0 was not.
    """

    pictures: Tensor
    others: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Mapping[str, Tensor] = field(default_factory=dict)
    numbers: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Painter:
    """Draws pictures of any of a denoiser's tasks, where its weights are now.

    guidance: scales by task; a task that is not named has none. sampler: one of `SAMPLERS`. steps: calls of it.
    keep_known: what is known of an answer, the source around a hole, is held to while drawing and is pasted at the end.
    inherit: parts of the network that some steps do not compute anew. switch: another model that draws some steps.
    budget: share of the base's cost that the denoiser may take; None: as its method decides.
    """

    denoiser: Denoiser
    guidance: Mapping[str, Guidance]
    sampler: str
    steps: int
    keep_known: bool = True
    inherit: Inheritance | None = None
    switch: Switch | None = None
    budget: float | None = None

    def __post_init__(self) -> None:
        check_budget(self.denoiser.method, self.budget)
        models = [self.denoiser] if self.switch is None else [self.denoiser, self.switch.light]
        if self.inherit is not None:
            for model in models:
                self.inherit.find_parts(model)
        if any(model.method.process is not None for model in models):
            check_mixing(self.sampler, inherit=self.inherit, switch=self.switch)
            check_not_flow(self.denoiser.backbone.scheduler)
        if self.switch is not None:
            map_tasks(self.denoiser.tasks, self.switch.light.tasks)

    @torch.no_grad()
    def draw(self, batch: Batch, noise: Tensor) -> Tensor:
        """Draw pictures (B, 3, H, W) in [-1, 1] for a batch of any tasks, from noise (B, C, h, w)."""
        return self.answer(batch, noise).pictures

    @torch.no_grad()
    def answer(self, batch: Batch, noise: Tensor) -> Drawn:
        """Draw pictures as `draw` does, and whatever the method says beside them."""
        batch, backbone = batch.to(self.denoiser.device), self.denoiser.backbone
        condition = encode_condition(backbone, batch, self.denoiser.method.encode_extra)
        process = self.denoiser.method.process
        course = None if process is None else process.start(condition)
        pictures = backbone.decode(self.draw_latents(condition, noise.to(self.denoiser.device), course))
        pictures = paste_known(pictures, batch.source, batch.mask) if self.keep_known else pictures
        if course is None:
            return Drawn(pictures)
        said = course.answer()
        asked = {name: latent.flatten(1).any(1) for name, latent in said.latents.items()}
        others = {name: backbone.decode(latent) for name, latent in said.latents.items() if asked[name].any()}
        return Drawn(pictures, others, asked, said.numbers)

    @torch.no_grad()
    def draw_latents(self, condition: Condition, noise: Tensor, course: Course | None = None) -> Tensor:
        """Draw latents (B, C, h, w) for an encoded condition, from noise of that shape.

        course: of the method's process, where it has one.
        """
        backbone, tasks = self.denoiser.backbone, self.denoiser.tasks
        scales = [self.guidance.get(tasks[k], Guidance()) for k in condition.task.tolist()]
        guided = guide(condition if course is None else course.condition, backbone.embed([""]), scales)
        known = Known.of(condition) if self.keep_known else None
        if course is not None and course.held is not None:
            known = Known.with_held(known, course.held)
        scheduler = make_scheduler(self.sampler, backbone.scheduler)
        return sample(self.start(noise.device), scheduler, guided, noise, self.steps, known, course)

    def plan(self) -> list[Step]:
        """What every step of a drawing computes."""
        scheduler = make_scheduler(self.sampler, self.denoiser.backbone.scheduler)
        set_times(scheduler, self.steps, torch.device("cpu"))
        return plan_steps(scheduler.timesteps.tolist(), self.inherit, self.switch)

    def start(self, device: torch.device) -> Denoise:
        """Make what predicts in one drawing; what its steps keep for later ones goes with it."""
        if self.inherit is None and self.switch is None and self.budget is None:
            return self.denoiser
        if self.switch is not None:
            self.switch.light.to(device)
        return Drawing(self.denoiser, self.plan(), self.inherit, self.switch, self.budget)


def check_budget(method: Method, budget: float | None) -> None:
    """Refuse a budget for a method whose network has one size."""
    if budget is not None and not method.budgets:
        raise ValueError(f"sampling.budget={budget}: expected null, since {type(method).__name__} has one size")
