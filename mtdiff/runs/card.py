"""The model card of an exported pipeline: what it is, how it was judged, how to draw with it as it was judged.

All texts of the run, which may be someone else's, are escaped.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtdiff.model.sampling import Guidance
from mtdiff.provenance import versions
from mtdiff.results.escape import escape_markdown
from mtdiff.results.record import RUN, Result, Row
from mtdiff.runs.adapter import About
from mtdiff.runs.checks import BUILT_IN
from mtdiff.tasks.takes import Takes

ASSETS = Path(__file__).parents[1] / "assets"
LICENCES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "CreativeML Open RAIL-M",
    **dict.fromkeys(
        BUILT_IN, "Apache-2.0; what it draws in Twemoji's style derives from CC-BY-4.0 material (NOTICE.md)"
    ),
}
SOURCES = {
    "mtdiff.data.emoji.source.EmojiSource": "the emoji set of mtdiff: Noto Emoji (Apache-2.0) and Twemoji (CC-BY-4.0)"
}
PACKAGES = ("python", "torch", "diffusers", "transformers")
TEXT = """
import torch
from diffusers import {pipeline}

{load}
picture = pipe(
    {prompt},
    num_inference_steps={steps},
    guidance_scale={text},
    generator=torch.Generator().manual_seed(0),
).images[0]
picture.save("out.png")
"""
IMAGE = """
import torch
from diffusers import {pipeline}
from PIL import Image, ImageOps

{load}
image = ImageOps.exif_transpose(Image.open("in.png")).convert("RGB").resize(({size}, {size}))
picture = pipe(
    {prompt},
    image=image,
    num_inference_steps={steps},
    guidance_scale={text},
    image_guidance_scale={image},
    generator=torch.Generator().manual_seed(0),
).images[0]
picture.save("out.png")
"""
MASK = """
import numpy as np
import torch
from diffusers import {pipeline}
from PIL import Image, ImageOps

{load}
image = ImageOps.exif_transpose(Image.open("in.png")).convert("RGB").resize(({size}, {size}))

# White is drawn anew. Of a layer, what lies on it is; of one that is black wherever it can be seen, what was erased.
layer = np.asarray(ImageOps.exif_transpose(Image.open("mask.png")).convert("LA"), dtype=float) / 255
grey, seen = layer[..., 0], layer[..., 1]
erased = 0 <= grey[seen >= 0.5].max(initial=-1) < 0.5
mask = Image.fromarray(np.uint8(255 * (grey * seen + erased * (1 - seen)))).resize(({size}, {size}))
mask = mask.point(lambda value: 255 * (value >= 128))

# What is known around the hole is held to while drawing, and pasted at the end.
hole = (pipe.mask_processor.preprocess(mask) >= 0.5).float()
masked = pipe.image_processor.preprocess(image) * (1 - hole)
with torch.no_grad():
    known = pipe.vae.encode(masked).latent_dist.mean * pipe.vae.config.scaling_factor
cells = torch.nn.functional.adaptive_avg_pool2d(hole, known.shape[-2:]) == 0
noise = torch.randn(known.shape, generator=torch.Generator().manual_seed(0))


def hold_known(pipe, step, time, values):
    later = pipe.scheduler.timesteps[step + 1 : step + 2]
    level = pipe.scheduler.add_noise(known, noise, later) if len(later) else known
    return {{"latents": torch.where(cells, level, values["latents"])}}


picture = pipe(
    {prompt},
    image=image,
    mask_image=mask,
    height={size},
    width={size},
    num_inference_steps={steps},
    guidance_scale={text},
    latents=noise,
    masked_image_latents=known,  # their mean, of which the pipeline itself would draw a sample
    callback_on_step_end=hold_known,
).images[0]
picture = pipe.image_processor.apply_overlay(mask, image, picture)
picture.save("out.png")
"""

WHOLE = 'pipe = {pipeline}.from_pretrained(".")  # this folder'
ADAPTER = """pipe = {pipeline}.from_pretrained({base})  # the base
pipe.scheduler = {scheduler}
{widen}{add}"""
WIDEN = """old = pipe.unet.conv_in  # this task's pipeline feeds more channels than the base reads
pipe.unet.conv_in = torch.nn.Conv2d({channels}, old.out_channels, old.kernel_size, old.stride, old.padding)
with torch.no_grad():
    pipe.unet.conv_in.weight.zero_()[:, : old.in_channels] = old.weight
    pipe.unet.conv_in.bias.copy_(old.bias)
pipe.unet.register_to_config(in_channels={channels})
"""
ADD = {
    "lora": 'pipe.load_lora_weights(".")  # this folder',
    "ia3": 'pipe.unet = peft.PeftModel.from_pretrained(pipe.unet, ".").merge_and_unload()  # this folder',
}
IMPORTS = {
    "lora": "import importlib.resources\n\nimport diffusers\n",
    "ia3": "import importlib.resources\n\nimport diffusers\nimport peft\n",
}
SHIPPED = 'importlib.resources.files("mtdiff") / "assets" / "nano"'
SCHEDULERS = {
    "ddim": "diffusers.DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)",
    "dpm++": 'diffusers.DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, algorithm_type="dpmsolver++")',
}


def write_card(
    out: Path, about: About, task: str, takes: Takes, pipeline: str, channels: int, form: str = "pipeline"
) -> None:
    """Write `README.md`, and the licence and notices where the base is a shipped one. pipeline: its class's name.

    channels: that the network reads. form: what the folder holds, `pipeline` or an adapter of `runs.peft_folder`.
    """
    lines = build_card(about, task, takes, pipeline, channels, form)
    (out / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if about.backbone.get("weights") in BUILT_IN:
        shutil.copyfile(ASSETS / "NOTICE.md", out / "NOTICE.md")
        if (licence := ASSETS.parents[1] / "LICENSE").exists():
            shutil.copyfile(licence, out / "LICENSE")


def build_card(about: About, task: str, takes: Takes, pipeline: str, channels: int, form: str) -> Iterator[str]:
    """Lines of Markdown. What is not known is said to be so."""
    result, base = read_result(about), str(about.backbone.get("weights"))
    given = None if result is None else result.config.get("data")
    data: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    yield from front_matter(pipeline)
    yield f"# {escape_markdown(task)}: a {pipeline}"
    yield ""
    folded = "folded into an ordinary network of the base's own shape"
    added = "as what it adds to the base: an adapter for peft" + (" and diffusers" if form == "lora" else "")
    yield f"One task of a model that mtdiff has trained, {folded if form == 'pipeline' else added}."
    yield ""
    yield from bullet_list(
        {
            "task": task,
            "method": f"{about.content['method']['_target_']}, trained on {', '.join(about.tasks)}",
            "base": f"{base}; licence: {LICENCES.get(base, 'that of the base, see its own card')}",
            "data": SOURCES.get(str(data.get("_target_")), f"{data.get('_target_', 'not known')}; licence: its own"),
            "trained": describe_training(result),
            "versions": describe_versions(result),
            "size": f"{about.backbone.get('size')} px a side",
            "sampler": f"{about.sampling.sampler}, {about.sampling.steps} steps (in `scheduler/`)",
        }
    )
    yield ""
    yield "## Draw as it was judged"
    yield ""
    yield "A pipeline's own defaults are others (50 steps, a text guidance of 7.5), and draw worse here."
    yield ""
    yield "```python" + write_snippet(about, task, takes, pipeline, form, channels) + "```"
    yield ""
    yield "## How it was judged"
    yield ""
    yield from describe_rows(result, task)
    yield ""
    yield "## Limits"
    yield ""
    yield from list_limits(about, task, takes)


def front_matter(pipeline: str) -> Iterator[str]:
    yield "---"
    yield "library_name: diffusers"
    yield f"pipeline_tag: {'text-to-image' if pipeline == 'StableDiffusionPipeline' else 'image-to-image'}"
    yield "---"


def read_result(about: About) -> Result | None:
    """What the run measured, or None where nothing can be read."""
    try:
        return Result.load(about.path.parent / "result.json")
    except (ValueError, OSError):
        return None


def bullet_list(entries: Mapping[str, str]) -> Iterator[str]:
    yield from (f"- **{name}**: {escape_markdown(text)}" for name, text in entries.items())


def describe_training(result: Result | None) -> str:
    if result is None:
        return "not known: the run's result.json is not there"
    commit = (result.git or {}).get("commit") or "not known"
    return f"{result.steps} steps, {result.samples_seen} examples, seed {result.seed}, {result.device}, commit {commit}"


def describe_versions(result: Result | None) -> str:
    found = versions() if result is None else result.versions
    return ", ".join(f"{name} {found[name]}" for name in PACKAGES if name in found)


def guidance_of(about: About, task: str) -> Guidance:
    return Guidance(**about.sampling.guidance.get(task, {}))


def write_snippet(about: About, task: str, takes: Takes, pipeline: str, form: str, channels: int) -> str:
    """Python that draws with the folder as the run was judged, as far as the pipeline can."""
    scales, text = guidance_of(about, task), TEXT
    if takes.image:
        text = MASK if takes.mask else IMAGE
    made = text.format(
        load=write_loading(about, takes, pipeline, form, channels),
        pipeline=pipeline,
        prompt='"what to draw"' if takes.prompt else '""',
        size=about.backbone.get("size"),
        steps=about.sampling.steps,
        text=float(scales.text),
        image=float(scales.image),
    )
    return made if form == "pipeline" else f"\n{IMPORTS[form]}{made.lstrip()}"


def write_loading(about: About, takes: Takes, pipeline: str, form: str, channels: int) -> str:
    if form == "pipeline":
        return WHOLE.format(pipeline=pipeline)
    weights = str(about.backbone.get("weights"))
    base = SHIPPED if weights in BUILT_IN else json.dumps(weights)
    widen = WIDEN.format(channels=channels) if takes.image else ""
    scheduler = SCHEDULERS[about.sampling.sampler]
    return ADAPTER.format(pipeline=pipeline, base=base, scheduler=scheduler, widen=widen, add=ADD[form])


def describe_rows(result: Result | None, task: str) -> Iterator[str]:
    rows = [] if result is None else [row for row in result.rows if row.task == task]
    if not rows:
        yield "Not known: no `result.json` with rows of this task lay beside the adapter."
        return
    yield "| model | metric | better | value | 95 % interval | examples |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        name = "this one" if row.model == RUN else row.model
        cells = (name, row.metric, row.direction, *format_value(row), str(row.n))
        yield "| " + " | ".join(escape_markdown(cell) for cell in cells) + " |"


def format_value(row: Row) -> tuple[str, str]:
    if row.value is None:
        return str(row.reason), ""
    interval = "" if row.low is None or row.high is None else f"{row.low:.4g} to {row.high:.4g}"
    return f"{row.value:.4g}", interval


def list_limits(about: About, task: str, takes: Takes) -> Iterator[str]:
    scales = guidance_of(about, task)
    yield "- It draws what the base knows, in the base's size; other sizes were not tried."
    if takes.mask:
        if scales.image != 1:
            yield f"- The pipeline has no image guidance; the run was judged with one of {scales.image:g}."
        yield "- The pipeline shrinks a mask by its nearest pixel, mtdiff by their mean: holes off its grid differ."
    if about.backbone.get("weights") in BUILT_IN:
        yield "- It knows emoji only."
    yield f"- Its settings as data: `{json.dumps({'steps': about.sampling.steps, 'guidance': vars(scales)})}`."
