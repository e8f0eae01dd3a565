"""Adapters as peft and diffusers folders: out, drawn with by the card's own snippet, and in again; foreign ones."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import export
import numpy as np
import pytest
import sample
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from peft import LoraConfig
from PIL import Image
from run_folders import ABOUT, draw_with, hole, picture
from safetensors.torch import load_file, save_file
from tiny import TASKS, tiny_unet

from mtdiff import load_run
from mtdiff.config.schema import construct
from mtdiff.config.settings import Sampling
from mtdiff.methods.base import CannotFold
from mtdiff.runs.adapter import identity, read_about
from mtdiff.runs.load import build_denoiser
from mtdiff.runs.peft_load import check_settings, load_peft
from mtdiff.types import Batch

SIDE = 16
LORA = {"_target_": "baselines.lora_ffn.LoraFFN", "rank": 2, "alpha": 4.0}
METHODS: dict[str, Any] = {
    "lora": LORA,
    "ia3": {"_target_": "baselines.ia3.IA3"},
    "dora": {**LORA, "use_dora": True},
    "mtu": ABOUT["method"],
}
GUIDANCE = {"text_to_image": {"text": 3.0}, "edit": {"image": 1.5, "text": 2.5}, "inpaint": {"text": 2.0}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion as anyone may have it."""
    tiny, folder = tiny_unet(), tmp_path_factory.mktemp("base") / "base"
    parts = {"vae": tiny.vae, "text_encoder": tiny.text_encoder, "tokenizer": tiny.tokenizer, "unet": tiny.denoiser}
    extra: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    StableDiffusionPipeline(
        **parts, scheduler=DDIMScheduler.from_config(tiny.scheduler.config), **extra
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A run folder of a method, whose trained numbers have moved, made when it is first asked for."""
    root = tmp_path_factory.mktemp("runs")

    def make(name: str) -> Path:
        folder = root / name
        if folder.exists():
            return folder
        folder.mkdir()
        about = copy.deepcopy(ABOUT) | {"method": METHODS[name]}
        about["sampling"] = {"sampler": "ddim", "steps": 3, "guidance": GUIDANCE}
        (folder / "adapter.json").write_text(json.dumps(about))
        rng = torch.Generator().manual_seed(0)
        state = build_denoiser(read_about(folder, base=str(base))).adapter()
        moved = {k: (v + 0.1 * torch.randn(v.shape, generator=rng)).contiguous() for k, v in state.items()}
        save_file(moved, folder / "adapter.safetensors", metadata={"about": identity(about)})
        return folder

    return make


@pytest.fixture(scope="module")
def adapter(runs: Callable[[str], Path], base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported LoRA folder for edits."""
    out = tmp_path_factory.mktemp("adapter") / "out"
    export.main([f"run={runs('lora')}", f"base={base}", "task=edit", "form=lora", f"out={out}"])
    return out


@pytest.mark.parametrize("form", ["lora", "ia3"])
@pytest.mark.parametrize("task", TASKS)
def test_the_card_and_our_own_reader_draw_what_the_run_draws(
    task: str, form: str, runs: Callable[[str], Path], base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = runs(form), tmp_path / "out"
    export.main([f"run={run}", f"base={base}", f"task={task}", f"form={form}", f"out={out}"])
    model = load_run(run, base=str(base))
    given: dict[str, Any] = {"image": picture(), "mask": hole()}
    given = {key: value for key, value in given.items() if getattr(model.takes[task], key)}
    ours, theirs = draw_with(out, model, task, given, monkeypatch)
    assert np.abs(ours - theirs).max() <= 1 / 255

    scales = GUIDANCE.get(task, {})
    options = [f"{name}_guidance={scales.get(name, 1.0)}" for name in ("image", "text")]
    for name, value in given.items():
        value.save(tmp_path / f"{name}.png")
        options.append(f"{name}={tmp_path / name}.png")
    prompt = "noto, crab" if model.takes[task].prompt else ""
    options += [f"prompt={prompt}", f"base={base}", "steps=3", f"out={tmp_path / 'drawn.png'}"]
    sample.main([f"adapter={out}", f"task={task}", *options])
    (expected,) = model(task, prompt, given.get("image"), given.get("mask"))
    drawn = np.asarray(Image.open(tmp_path / "drawn.png")).astype(int)
    assert np.abs(drawn - np.asarray(expected)).max() <= 1


def test_diffusers_own_file_is_read_as_well(adapter: Path, base: Path, tmp_path: Path) -> None:
    """Without peft's settings; and without any, where alphas are the ranks."""
    drawn = [draw(adapter, base, tmp_path)]
    alone = tmp_path / "alone"
    alone.mkdir()
    name = "pytorch_lora_weights.safetensors"
    shutil.copy(adapter / name, alone)
    drawn.append(draw(alone, base, tmp_path))
    save_file(load_file(adapter / name), alone / name)
    drawn.append(draw(alone, base, tmp_path))
    for other in drawn[1:]:
        assert np.abs(drawn[0] - other).max() <= 1


def test_a_lora_of_others_without_our_channels(base: Path, tmp_path: Path) -> None:
    """As diffusers draws with it: on attention, with an alpha of its own."""
    pipe = StableDiffusionPipeline.from_pretrained(base)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=["to_k", "to_v"], use_rslora=True))
    rng = torch.Generator().manual_seed(1)
    for parameter_name, parameter in pipe.unet.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(generator=rng)
    pipe.unet.save_lora_adapter(tmp_path / "lora")
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    backbone = construct({**ABOUT["backbone"], "weights": str(base)})
    task, sampling = construct(ABOUT["task"]["text_to_image"]), Sampling(steps=3, guidance={"a": {"text": 3.0}})
    model = load_peft(backbone, tmp_path / "lora", name="a", task=task, sampling=sampling)
    theirs = pipe("crab", num_inference_steps=3, guidance_scale=3.0, latents=noise, output_type="np").images[0]
    blank = torch.zeros(1, 3, SIDE, SIDE)
    batch = Batch(blank, blank, torch.ones(1, 1, SIDE, SIDE), ["crab"], torch.tensor([0]), [""], [""], [""], [0])
    ours = model.painter.draw(batch, noise)[0].permute(1, 2, 0).numpy() / 2 + 0.5
    assert model.size == SIDE
    assert np.abs(ours - theirs).max() <= 1 / 255


@pytest.mark.parametrize(("name", "form"), [("mtu", "lora"), ("mtu", "ia3"), ("dora", "lora"), ("lora", "ia3")])
def test_a_change_of_another_kind_is_refused(
    name: str, form: str, runs: Callable[[str], Path], base: Path, tmp_path: Path
) -> None:
    with pytest.raises(CannotFold, match=r"\A[^\n]+form=pipeline[^\n]+\Z"):
        export.main([f"run={runs(name)}", f"base={base}", "task=edit", f"form={form}", f"out={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def draw(adapter: Path, base: Path, work: Path, *options: str) -> np.ndarray:
    picture().save(work / "in.png")
    out = work / "drawn.png"
    given = [f"adapter={adapter}", f"base={base}", "task=edit", "prompt=x", f"image={work / 'in.png'}", f"out={out}"]
    sample.main([*given, "steps=2", *options])
    return np.asarray(Image.open(out)).astype(int)


# Folders of others


def change_settings(folder: Path, changes: dict[str, Any]) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


SETTINGS: list[dict[str, Any]] = [
    {"peft_type": "PREFIX_TUNING"},
    {"peft_type": ["LORA"]},
    {"r": 10**9},
    {"r": "8"},
    {"lora_alpha": 1e999},
    {"lora_alpha": None, "r": 0},
    {"rank_pattern": {"(a+)+$": 4}},
    {"alpha_pattern": {"x": "y"}},
    {"target_modules": "(a+)+$"},
    {"target_modules": ["(a+)+$"]},
    {"use_dora": "yes"},
    {"bias": "all"},
    {"modules_to_save": ["conv_out"]},
    {"megatron_core": "os", "megatron_config": {"x": 1}},
    {"init_lora_weights": "pissa"},
    {"layer_replication": [[0, 4], [2, 5]]},
    {"fan_in_fan_out": True},
]


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_settings_of_others(changes: dict[str, Any], adapter: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "foreign"))
    if "lora_alpha" in changes and changes["lora_alpha"] == 1e999:
        text = (folder / "adapter_config.json").read_text()
        (folder / "adapter_config.json").write_text(text.replace('"lora_alpha": ', '"lora_alpha": 1e999, "x": '))
    else:
        change_settings(folder, changes)
    with pytest.raises(ValueError, match=r"\A[^\n]*adapter_config.json: [^\n]+\Z"):
        draw(folder, base, tmp_path)


def test_a_setting_that_is_off_is_passed(tmp_path: Path) -> None:
    given = {"peft_type": "LORA", "r": 4, "some_new_thing": None, "another": {}, "qalora_group_size": 16}
    assert check_settings(tmp_path, given).r == 4


def spoil_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")


def first(tensors: dict[str, torch.Tensor]) -> str:
    return next(iter(tensors))


SPOILT: dict[str, Callable[[Path], Any]] = {
    "no such folder": shutil.rmtree,
    "neither": lambda f: [path.unlink() for path in f.iterdir() if path.suffix in (".json", ".safetensors")],
    "no tensors": lambda f: (f / "adapter_model.safetensors").unlink(),
    "cut": lambda f: (f / "adapter_model.safetensors").write_bytes(
        (f / "adapter_model.safetensors").read_bytes()[:-100]
    ),
    "not JSON": lambda f: (f / "adapter_config.json").write_text("{"),
    "a list": lambda f: (f / "adapter_config.json").write_text("[]"),
    "a tensor is missing": lambda f: spoil_tensors(f, lambda t: t.pop(first(t))),
    "a tensor of another shape": lambda f: spoil_tensors(f, lambda t: t.update({first(t): torch.ones(3, 3)})),
    "not finite": lambda f: spoil_tensors(f, lambda t: t[first(t)].fill_(float("nan"))),
    "of a huge rank": lambda f: change_settings(f, {"r": 4096}),
    "of other layers": lambda f: change_settings(f, {"target_modules": ["nothing"]}),
    "a link": lambda f: (
        (f / "adapter_model.safetensors").rename(f.parent / "elsewhere")
        and (f / "adapter_model.safetensors").symlink_to(f.parent / "elsewhere")
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_folders_of_others(how: str, adapter: Path, base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(adapter, tmp_path / "foreign"))
    SPOILT[how](folder)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z"):
        draw(folder, base, tmp_path)


MISTAKES = {
    "run=mtu-nano": "run=mtu-nano: expected none beside adapter=",
    "backbone=dit": "expected a base of Stable Diffusion's family|meta",
    "sampling.steps=0": "sampling.steps=0",
    "nonsense": "nonsense",
    "text_guidance=nan": "text_guidance",
    "prompt=y": "is given twice",
}


@pytest.mark.parametrize("option", MISTAKES)
def test_mistakes_beside_an_adapter(option: str, adapter: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"\A[^\n]*({MISTAKES[option]})[^\n]*\Z"):
        draw(adapter, base, tmp_path, option)


def test_a_task_is_one_of_the_configuration(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\Atask=fly: expected one of text_to_image, [^\n]+\Z"):
        sample.main([f"adapter={adapter}", "task=fly", f"out={tmp_path / 'out.png'}"])
