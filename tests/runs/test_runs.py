"""The library face, sampling and export from a run folder, against diffusers' own pipelines from the same noise."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from forked import run_script
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import TASKS

import mtdiff
from mtdiff.backbones.stable_diffusion import load
from mtdiff.methods.base import CannotFold
from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import first_noise
from mtdiff.model.sampling import Guidance
from mtdiff.rng import torch_rng
from mtdiff.runs.export import export_pipeline
from mtdiff.runs.model import Model
from mtdiff.types import Batch

ROOT = Path(__file__).parents[2]
ABOUT = {
    "method": {"_target_": "mtdiff.methods.mtu.MTU", "experts": 4},
    "backbone": {"_target_": "mtdiff.backbones.stable_diffusion.load", "weights": "nano"},
    "task": {
        "text_to_image": {"_target_": "mtdiff.tasks.text_to_image.TextToImage"},
        "edit": {"_target_": "mtdiff.tasks.edit.Edit"},
        "super_resolution": {"_target_": "mtdiff.tasks.super_resolution.SuperResolution"},
        "inpaint": {"_target_": "mtdiff.tasks.inpaint.Inpaint"},
    },
    "tasks": list(TASKS),
    "sampling": {"sampler": "ddim", "steps": 3, "guidance": {"edit": {"image": 1.5, "text": 3.0}}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder whose adapter has left the base: every trained number is moved a little."""
    made = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    adapter = Denoiser(load(), MTU(experts=4), TASKS).adapter()
    save_file({k: v + 0.02 * torch.randn_like(v) for k, v in adapter.items()}, made / "adapter.safetensors")
    (made / "adapter.json").write_text(json.dumps(ABOUT))
    return made


@pytest.fixture
def model(folder: Path) -> Model:
    return mtdiff.load_run(folder)


def picture(seed: int = 0, side: int = 64) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(float) / 255


def test_one_call_mixes_tasks_and_equals_single_calls(model: Model) -> None:
    tasks, prompts = ["edit", "text_to_image", "super_resolution"], ["make it blue", "noto, robot face", ""]
    images = [picture(), None, picture(1)]
    together = model(tasks, prompts, images)
    (alone,) = model(tasks[0], prompts[0], images[0])
    assert [p.size for p in together] == [(64, 64)] * 3
    assert np.abs(array(together[0]) - array(alone)).max() <= 1 / 255 + 1e-6
    assert np.abs(array(model(tasks, prompts, images, seed=1)[0]) - array(together[0])).max() > 0.02


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"task": "edt", "prompt": "x"}, ["task=edt", "did you mean 'edit'"]),
        ({"task": "text_to_image", "prompt": "x", "image": picture()}, ["image", "takes none"]),
        ({"task": "text_to_image"}, ["prompt", "needs one"]),
        ({"task": "edit", "prompt": "x"}, ["image", "needs one"]),
        ({"task": "edit", "prompt": "x", "image": picture(), "mask": picture()}, ["mask", "takes none"]),
        (
            {"task": "inpaint", "prompt": "x", "image": picture(), "mask": picture(side=32)},
            ["mask", "(32, 32)", "(64, 64)"],
        ),
        ({"task": ["edit"] * 3, "prompt": ["a", "b"], "image": picture()}, ["prompt", "expected 1 or 3"]),
    ],
)
def test_bad_requests_get_one_line(model: Model, arguments: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        model(**arguments)  # type: ignore[arg-type]
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("task", ["text_to_image", "edit", "super_resolution"])
def test_export_draws_what_the_run_draws(task: str, model: Model, tmp_path: Path) -> None:
    prompt, image = ("" if task == "super_resolution" else "noto, robot face"), picture()
    has_image = task != "text_to_image"
    (ours,) = model(task, prompt, image if has_image else None)
    key = torch.zeros(1, 3, 64, 64)
    batch = Batch(key, key, key[:, :1], [""], torch.zeros(1).long(), ["request 0"], [""], [""], [0])
    noise = first_noise(batch, model.painter.denoiser.backbone.latent_shape, 0)
    scales = model.painter.guidance.get(task)
    name = export_pipeline(model, task, tmp_path / "out")
    pipeline = getattr(diffusers, name).from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    options = {"latents": noise, "num_inference_steps": 3, "output_type": "np"}
    options["guidance_scale"] = 1.0 if scales is None else scales.text
    if has_image:
        options |= {"image": image, "image_guidance_scale": 1.0 if scales is None else scales.image}
    theirs = pipeline(prompt, **options).images[0]
    assert np.abs(array(ours) - theirs).max() <= 1e-3 + 0.5 / 255  # ours is rounded to bytes
    expected = {"text_to_image": "StableDiffusionPipeline"}
    assert name == expected.get(task, "StableDiffusionInstructPix2PixPipeline")


def test_inpainting_export_draws_what_the_run_draws(model: Model, tmp_path: Path) -> None:
    """A hole on the latent grid, since the pipeline shrinks masks by their nearest pixel and we by their mean; the
    pipeline has no image guidance."""
    hole = torch.zeros(1, 64, 64)
    hole[:, 16:40, 8:48] = 1
    model = Model(replace(model.painter, keep_known=False), model.tasks)  # which no pipeline does
    (ours,) = model("inpaint", "noto, robot face", picture(), hole, guidance=Guidance(1.0, 2.0))
    known = torch.from_numpy(array(picture())).float().permute(2, 0, 1)[None] * 2 - 1
    masked = model.painter.denoiser.backbone.encode(known * (1 - hole))
    noise = torch.randn(masked.shape, generator=torch_rng(0, "noise", "request 0"))
    assert export_pipeline(model, "inpaint", tmp_path / "out") == "StableDiffusionInpaintPipeline"
    pipeline = diffusers.StableDiffusionInpaintPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    assert pipeline.unet.config.in_channels == 2 * masked.shape[1] + 1
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        "noto, robot face",
        picture(),
        Image.fromarray((hole[0].numpy() * 255).astype(np.uint8)),
        masked_image_latents=masked,  # the pipeline would draw them from the encoder's distribution, we take its mean
        height=64,
        width=64,
        num_inference_steps=3,
        guidance_scale=2.0,
        latents=noise,
        output_type="np",
    ).images[0]
    assert np.abs(array(ours) - theirs).max() <= 1e-3 + 0.5 / 255


def test_what_cannot_fold_says_so(folder: Path, tmp_path: Path) -> None:
    about = {**ABOUT, "method": {**ABOUT["method"], "router_input": "task_timestep"}}  # type: ignore[dict-item]
    denoiser = Denoiser(load(), MTU(experts=4, router_input="task_timestep"), TASKS)
    save_file({k: v.contiguous() for k, v in denoiser.adapter().items()}, tmp_path / "adapter.safetensors")
    (tmp_path / "adapter.json").write_text(json.dumps(about))
    with pytest.raises(CannotFold, match=r"^[^\n]+$"):
        export_pipeline(mtdiff.load_run(tmp_path), "edit", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def broken(folder: Path, target: Path, change: str) -> Path:
    target.mkdir()
    about = json.loads((folder / "adapter.json").read_text())
    adapter = load_file(folder / "adapter.safetensors")
    if change == "class":
        about["method"]["_target_"] = "os.system"
    if change == "missing":
        adapter.pop(sorted(adapter)[0])
    if change == "shape":
        about["method"]["experts"] = 2
    if change == "key":
        about.pop("sampling")
    save_file(adapter, target / "adapter.safetensors")
    if change == "bytes":
        (target / "adapter.safetensors").write_bytes(b"\x80\x04 no tensors")
    (target / "adapter.json").write_text("{" if change == "json" else json.dumps(about))
    return target


@pytest.mark.parametrize("change", ["class", "missing", "shape", "key", "bytes", "json"])
def test_a_broken_folder_is_refused_in_one_line(change: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        mtdiff.load_run(broken(folder, tmp_path / "run", change))


def test_commands(folder: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "in.png")

    def call(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_script(ROOT / "experiments" / script, *arguments)

    edit = [f"run={folder}", "task=edit", "prompt=make it blue", f"image={tmp_path}/in.png", f"out={tmp_path}/out.png"]
    done = call("sample.py", *edit)
    assert done.returncode == 0, done.stderr
    (expected,) = mtdiff.load_run(folder)("edit", "make it blue", picture())
    assert np.array_equal(np.asarray(Image.open(tmp_path / "out.png")), np.asarray(expected))
    done = call("export.py", f"run={folder}", "task=edit", f"out={tmp_path}/pipeline")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "pipeline" / "model_index.json").exists()
    for script, bad in (("sample.py", ["run=nowhere", "task=edit", "out=x.png"]), ("export.py", ["ran=x"])):
        done = call(script, *bad)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert done.stderr.startswith("error: ")


def test_a_prompt_longer_than_the_text_encoder_reads_is_said(model: Model, caplog: pytest.LogCaptureFixture) -> None:
    model("text_to_image", "noto, crab")
    assert caplog.text == ""
    model("text_to_image", "noto, crab " * 50)
    assert "prompt=noto, crab noto, crab" in caplog.text
    assert "cut after 32 tokens" in caplog.text
    assert caplog.text.count("\n") == 1
