"""Pictures a second: our sampler against diffusers' pipelines, and a mixed batch against one call per task.

Letters: B batch, H W pixels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

from benchmarks.folded import TAKES, folded_for, moved_mtu
from benchmarks.timing import Bar, Comparison, How, largest_difference, take_turns
from mtdiff.backbones.base import Backbone
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter, first_noise
from mtdiff.model.sampling import Guidance, make_scheduler
from mtdiff.runs.export import pipeline_name
from mtdiff.types import Batch, Example

Scales = Mapping[str, Guidance]
MIXED = ("text_to_image", "edit", "super_resolution", "inpaint")


def compare_sampling(
    base: Backbone, steps: int, guidance: Scales, pictures: int, how: How, turns: int
) -> list[Comparison]:
    """MTU as it was trained (`mtu`) and folded (`folded`), drawn by our sampler, against the pipeline that an export of
    it would run in. All three draw the same pictures; `difference` says how far they are apart, in [0, 1]."""
    return [compare_task(base, task, steps, guidance, pictures, how, turns) for task in TAKES]


def compare_task(
    base: Backbone, task: str, steps: int, guidance: Scales, pictures: int, how: How, turns: int
) -> Comparison:
    tasks = list(TAKES)
    batch = examples(base.size, [task] * pictures, tasks).to(how.device)
    noise = first_noise(batch, base.latent_shape, 0).to(how.device)
    unfolded, plain = moved_mtu(base, tasks), moved_mtu(base, tasks)
    plain.method.fold(plain.backbone, tasks.index(task))
    painters = {
        "mtu": make_painter(unfolded, steps, guidance, how),
        "folded": make_painter(plain, steps, guidance, how),
    }
    pipeline = pipeline_of(folded_for(base, task), task, how)
    options: dict[str, Any] = {"prompt": batch.prompt, "latents": noise, "num_inference_steps": steps}
    options |= {"output_type": "pt", "guidance_scale": guidance[task].text}
    if TAKES[task].image:
        options |= {"image": batch.source / 2 + 0.5, "image_guidance_scale": guidance[task].image}
    drawn: dict[str, Tensor] = {}

    def ours(name: str) -> None:
        with how.autocast():
            drawn[name] = painters[name].draw(batch, noise) / 2 + 0.5  # (B, 3, H, W)

    def theirs() -> None:
        with how.autocast():
            drawn["pipeline"] = pipeline(**options).images

    calls = {"pipeline": theirs, "folded": lambda: ours("folded"), "mtu": lambda: ours("mtu")}
    seconds = take_turns(calls, how, how.turns(turns))
    bars = tuple(Bar(name, "pipeline", "speed", 1.0) for name in painters)
    counts = {f"difference {name}": largest_difference(drawn[name], drawn["pipeline"]) for name in painters}
    case = f"{pictures} pictures, {task}, {steps} steps, {type(pipeline).__name__}"
    return Comparison("sampling", case, seconds, bars, counts)


def compare_mixed(base: Backbone, steps: int, guidance: Scales, each: int, how: How, turns: int) -> Comparison:
    """One batch of four tasks, `each` pictures of every one, against four calls of one task."""
    painter = make_painter(moved_mtu(base, MIXED), steps, guidance, how)
    together = examples(base.size, [task for task in MIXED for _ in range(each)], MIXED).to(how.device)
    noise = first_noise(together, base.latent_shape, 0).to(how.device)
    rows = [together.task == k for k in range(len(MIXED))]
    drawn: dict[str, Tensor] = {}

    def one_call() -> None:
        with how.autocast():
            drawn["mixed"] = painter.draw(together, noise)

    def four_calls() -> None:
        with how.autocast():
            drawn["separate"] = torch.cat([painter.draw(together.rows(part), noise[part]) for part in rows])

    seconds = take_turns({"separate": four_calls, "mixed": one_call}, how, how.turns(turns))
    counts = {"difference mixed": largest_difference(drawn["mixed"], drawn["separate"]) / 2}
    bars = (Bar("mixed", "separate", "speed", 1.0),)
    return Comparison("mixed", f"{len(together)} pictures of {len(MIXED)} tasks, {steps} steps", seconds, bars, counts)


def make_painter(denoiser: Denoiser, steps: int, guidance: Scales, how: How) -> Painter:
    return Painter(denoiser=denoiser.to(how.device).eval(), guidance=guidance, sampler="ddim", steps=steps)


def pipeline_of(denoiser: Denoiser, task: str, how: How) -> Any:
    """diffusers' own pipeline around a network folded for it."""
    parts: Any = denoiser.backbone
    made = getattr(diffusers, pipeline_name(TAKES[task]))(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.denoiser,
        scheduler=make_scheduler("ddim", parts.scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made.to(how.device)


def examples(size: int, wanted: Sequence[str], tasks: Sequence[str]) -> Batch:
    """Examples of noise in the fields that each task fills; no prompt comes twice."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number, task in enumerate(wanted):
        picture = torch.rand(3, size, size, generator=generator) * 2 - 1  # (3, H, W)
        mask = torch.zeros(1, size, size)
        if task == "text_to_image":
            mask += 1
        elif task == "inpaint":
            mask[:, : size // 2] = 1
        prompt = "" if task == "super_resolution" else f"a picture of {number} smiling faces"
        made.append(Example(picture, picture * (1 - mask), mask, prompt, list(tasks).index(task), f"example {number}"))
    return Batch.collate(made)
