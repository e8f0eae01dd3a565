"""The catalogue of bad input: every mistake gets one line that names it, exit code 2, and no traceback.

Rows are (what is given, words of the answer). Configurations answer before torch is needed; the library face answers by
a ValueError whose text is that line.
"""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cost
import export
import numpy as np
import pytest
import sample
import table
import torch
from PIL import Image
from run_folders import Change, about_changed, copied, hole, make_run, picture, tensors_changed

from mtdiff import load_run
from mtdiff.commands.command import guard
from mtdiff.commands.compose import Call, check_call, read_configuration
from mtdiff.config.schema import construct
from mtdiff.model.sampling import Guidance
from mtdiff.results.record import Result, Row
from mtdiff.runs.checks import check_constructors
from mtdiff.runs.model import Model

ROOT = Path(__file__).parents[2]

WEIGHTS = ("bf16-true", "16-true", "64-true", "64", "bf16", "16", "transformer-engine")
UNTAKEN = ("fast_dev_run=true", "overfit_batches=1", "limit_train_batches=2", "max_time=00:00:00:10", "min_steps=5")
UNTAKEN += ("barebones=true", "plugins=[]", "inference_mode=false", "reload_dataloaders_every_n_epochs=1")
CONFIGURATIONS: list[tuple[str, list[str]]] = [
    ("method=foo", ["method=foo", "dtr", "mtu"]),
    ("backbone=sd9", ["backbone=sd9", "nano"]),
    ("trainer=foo", ["trainer=foo", "default"]),
    ("balancing=foo", ["balancing=foo", "uniform"]),
    ("+balancing.weighting.lr=1", ["balancing.weighting.lr=1", "no such option", "none"]),
    ("method=null", ["method=None", "mtu"]),
    ("~method", ["method", "has to be given"]),
    ("~training", ["training", "has to be given"]),
    ("+nonsense=1", ["nonsense", "no such option"]),
    ("trianing.lr=1", ["trianing", "did you mean 'training'"]),
    ("method.nope=1", ["method.nope", "method.experts"]),
    ("+method.nope=1", ["method.nope=1", "no such option", "experts"]),
    ("+method._args_=[1]", ["method._args_", "no such option"]),
    ("+method._partial_=true", ["method._partial_", "no such option"]),
    ("method.experts=many", ["method.experts=many", "a whole number"]),
    ("method.experts=2.5", ["method.experts=2.5", "a whole number"]),
    ("method.experts=true", ["method.experts=True", "a whole number"]),
    ("method.experts={_target_: mtdiff.tasks.edit.Edit}", ["method.experts", "a whole number"]),
    ("method.rescale=yes", ["method.rescale=yes", "true or false"]),
    ("method.granularity=nan", ["method.granularity=nan", "a finite number"]),
    ("method.router_input=time", ["method.router_input=time", "task_timestep"]),
    ("method=lora_ffn method.targets=ffn", ["method.targets=ffn", "a list"]),
    ("method=lora_ffn method.targets=[fnn]", ["method.targets", "fnn", "ffn, self_attention"]),
    ("method=finetune method.parts=[some]", ["method.parts", "some", "all"]),
    ("tasks=[]", ["tasks=[]", "at least one of"]),
    ("tasks=null", ["tasks=None", "a list"]),
    ("tasks=edit", ["tasks=edit", "a list"]),
    ("tasks=[edt]", ["tasks=edt", "did you mean 'edit'"]),
    ("tasks=[1]", ["tasks=1", "text_to_image"]),
    ("tasks=[edit,edit]", ["tasks", "'edit' comes twice"]),
    ("~task.edit", ["tasks=edit", "text_to_image, super_resolution"]),
    ("task.edit=null", ["task.edit", "a mapping with the _target_"]),
    ("task.super_resolution.scale=big", ["task.super_resolution.scale=big", "a whole number"]),
    ("task.super_resolution.degradation=blur", ["degradation=blur", "realesrgan, bicubic"]),
    ("weights.edit=-1", ["weights.edit=-1", "above 0"]),
    ("weights.edit=nan", ["weights.edit=nan", "finite number above 0"]),
    ("weights.edit=inf", ["weights.edit=inf", "finite number above 0"]),
    ("weights.edit=much", ["weights.edit=much", "finite number above 0"]),
    ("weights={text_to_image: 0, edit: 0, super_resolution: 0, inpaint: 0}", ["weights.text_to_image=0", "above 0"]),
    ("weights.edit=0.00001", ["weights", "1e-05", "shares"]),
    ("+weights.edt=1", ["weights=edt", "did you mean 'edit'"]),
    ("tasks=[edit] weights.inpaint=2", ["weights.inpaint=2", "edit"]),
    ("training=5", ["training=5", "a mapping"]),
    ("training.steps=0", ["training.steps=0", "at least 1"]),
    ("training.steps=1e3", ["training.steps=1000.0", "a whole number"]),
    ("training.batch_size=0", ["training.batch_size=0", "at least 1"]),
    ("training.accumulate=-1", ["training.accumulate=-1", "at least 1"]),
    ("training.workers=-1", ["training.workers=-1", "at least 0"]),
    ("training.lr=nan", ["training.lr=nan", "a finite number"]),
    ("training.lr=inf", ["training.lr=inf", "a finite number"]),
    ("training.lr=-1", ["training.lr=-1", "at least 0"]),
    ("training.lr=fast", ["training.lr=fast", "a finite number"]),
    ("training.betas=[0.9]", ["training.betas=[0.9]", "a list of 2"]),
    ("training.betas=[0.9,1.5]", ["training.betas=[0.9, 1.5]", "less than 1"]),
    ("training.clip=-1", ["training.clip=-1", "at least 0"]),
    ("training.ema_decay=2", ["training.ema_decay=2", "0 to 1"]),
    ("training.dropout.text=lots", ["training.dropout.text=lots", "a finite number"]),
    ("training.dropout={text: 0.9, image: 0.9, both: 0}", ["training.dropout", "sum to at most 1"]),
    ("training.save_every=0", ["training.save_every=0", "at least 1"]),
    ("sampling.steps=0", ["sampling.steps=0", "1 to 1000"]),
    ("sampling.sampler=euler", ["sampling.sampler=euler", "ddim, dpm++"]),
    ("sampling.guidance.edit=3", ["sampling.guidance.edit=3", "a mapping"]),
    ("sampling.guidance.edit.text=nan", ["sampling.guidance.edit.text=nan", "a finite number"]),
    ("+sampling.guidance.edit.txt=3", ["sampling.guidance.edit.txt=3", "image, text"]),
    ("+sampling.guidance.edti={text: 3}", ["sampling.guidance=edti", "did you mean 'edit'"]),
    ("sampling.inherit={level: row, every: 2}", ["sampling.inherit.level=row", "block, layer, unit"]),
    ("sampling.inherit={every: 2}", ["sampling.inherit.level: has to be given", "block, layer, unit"]),
    ("sampling.inherit={level: block, every: 0}", ["sampling.inherit.every=0", "at least 1"]),
    ("sampling.inherit={level: block, every: 2, form: 9}", ["sampling.inherit.form=9", "did you mean 'from'"]),
    ("sampling.inherit={level: block, every: 2, from: 9, until: 10}", ["sampling.inherit.from=9", "until=10"]),
    ("sampling.inherit={level: block, every: 2, until: -1}", ["sampling.inherit.until=-1", "at least 0"]),
    ("sampling.inherit={level: block, every: 2, spacing: log}", ["spacing=log", "uniform, quad"]),
    ("sampling.inherit={level: unit, every: 2, units: []}", ["sampling.inherit.units=[]", "self_attention"]),
    ("sampling.inherit={level: unit, every: 2, units: [mlp]}", ["sampling.inherit.units=['mlp']", "self_attention"]),
    ("sampling.inherit=block", ["sampling.inherit=block", "a mapping", "null"]),
    ("sampling.inherit.level=block", ["sampling.inherit.level", "sampling.inherit={level: ...}"]),
    ("sampling.switch={light: nowhere, until: 9}", ["sampling.switch.light=nowhere", "mtu-nano"]),
    ("sampling.switch={light: mtu-nano}", ["sampling.switch.until: has to be given"]),
    ("sampling.switch={light: mtu-nano, until: -1}", ["sampling.switch.until=-1", "at least 0"]),
    ("sampling.switch={light: mtu-nano, until: 9, first: both}", ["sampling.switch.first=both", "light, full"]),
    ("sampling.switch={light: '', until: 9}", ["sampling.switch.light=''", "the folder of a run"]),
    ("evaluation.split=train", ["evaluation.split=train", "validation, test"]),
    ("evaluation.per_task=1", ["evaluation.per_task=1", "at least 2"]),
    ("evaluation.validation_per_task=0", ["evaluation.validation_per_task=0", "at least 1"]),
    ("evaluation.seed=-1", ["evaluation.seed=-1", "at least 0"]),
    ("seed=-1", ["seed=-1", "at least 0"]),
    ("seed=true", ["seed=True", "a whole number"]),
    ("seed=99999999999999999999", ["seed=99999999999999999999", "less than 2**63"]),
    ("'seed=${nope}'", ["seed", "nope"]),
    ("name=../up", ["name=../up", "one folder"]),
    ("run_dir=5", ["run_dir=5", "a path"]),
    ("run_dir=/dev/null/run", ["run_dir=/dev/null/run", "/dev/null is a file"]),
    ("packages=yours", ["packages=yours", "a list"]),
    ("packages=[1]", ["packages=[1]", "Python packages"]),
    ("trainer.precision=8", ["trainer.precision=8", "32-true, bf16-mixed, 16-mixed"]),
    *((f"trainer.precision={p}", [f"trainer.precision={p}", "32-true, bf16-mixed"]) for p in WEIGHTS),
    ("trainer.accelerator=cpu trainer.precision=16-mixed", ["trainer.precision=16-mixed", "bf16-mixed or 32-true"]),
    *((f"+trainer.{a}", [f"trainer.{a.partition('=')[0]}", "no such option", "strategy"]) for a in UNTAKEN),
    ("progress=perhaps", ["progress=perhaps", "true or false"]),
    ("logger.wandb=maybe", ["logger.wandb=maybe", "true or false"]),
    ("logger.tags=one", ["logger.tags=one", "a list"]),
    ("+logger.api_key=abc", ["logger.api_key=abc", "no such option"]),
    ("+trainer.foo=1", ["trainer.foo=1", "no such option"]),
    ("+trainer.max_steps=5", ["trainer.max_steps=5", "training.steps"]),
    ("backbone.size=60", ["backbone.size=60", "a multiple of 8"]),
    ("backbone.size=0", ["backbone.size=0", "a multiple of 8"]),
    ("backbone.size=64.5", ["backbone.size=64.5", "a whole number"]),
    ("data.size=50", ["data.size=50", "a multiple of 8"]),
    ("data.styles=noto", ["data.styles=noto", "a list"]),
    ("data.scenes=half", ["data.scenes=half", "a finite number"]),
    ("backbone.weights=3", ["backbone.weights=3", "a text"]),
    ("method._target_=os.system", ["method._target_=os.system", "mtdiff, baselines"]),
    ("method._target_=mtdiff.tasks.edit.Edit", ["method._target_=mtdiff.tasks.edit.Edit", "expected a Method"]),
    ("data._target_=mtdiff.methods.mtu.MTU", ["data._target_", "expected a Source"]),
    ("backbone._target_=mtdiff.tasks.edit.Edit", ["backbone._target_", "expected a Backbone"]),
    ("task.edit._target_=mtdiff.methods.mtu.MTU", ["task.edit._target_", "expected a Task"]),
    ("method", ["method", "key=value"]),
    ("tasks=[edit", ["tasks=[edit", "key=value"]),
    ("=5", ["=5", "key=value"]),
]

CONSTRUCTORS: list[tuple[str, list[str]]] = [
    ("method.experts=0", ["method.experts=0", "at least 1"]),
    ("method.top_k=5", ["method.top_k=5", "experts=4"]),
    ("method.granularity=-1", ["method.granularity=-1", "positive"]),
    ("method=lora_ffn method.rank=0", ["method.rank=0", "at least 1"]),
    ("method=lora_ffn method.alpha=-1", ["method.alpha=-1", "positive"]),
    ("method=lora_ffn method.dropout=1", ["method.dropout=1", "less than 1"]),
    ("method=lora_ffn method.targets=[]", ["method.targets=[]", "one or more"]),
    ("method=finetune method.parts=[]", ["method.parts=[]", "one or more"]),
    ("method=dtr method.alpha=0", ["method.alpha=0", "positive"]),
    ("method=dtr method.beta=1.5", ["method.beta=1.5", "at most 1"]),
    ("method=one_pic method.rank=-3", ["method.rank=-3", "at least 1"]),
    ("balancing.time_shift=0", ["balancing.time_shift=0", "positive"]),
    ("balancing=min_snr balancing.weighting.gamma=-1", ["balancing.weighting.gamma=-1", "positive"]),
    ("task.super_resolution.scale=3", ["scale=3", "2 or 4"]),
    ("task.inpaint.removal=2", ["removal=2", "[0, 1]"]),
    ("data.size=128", ["backbone.size=64", "data.size=128", "the same side"]),
    ("trainer.accelerator=warp", ["trainer", "warp"]),
    ("trainer.strategy=luck", ["trainer", "luck"]),
]

COSTS: list[tuple[str, list[str]]] = [
    ("method=mtu method.experts=7", ["method.experts=7", "do not divide"]),
    ("seed=0,1", ["one configuration at a time"]),
    ("latency=perhaps", ["latency=perhaps", "true or false"]),
    ("repeats=many", ["repeats=many", "a whole number"]),
    ("repeats=[", ["repeats=["]),
    ("device=warp", ["device=warp"]),
    ("out=/dev/null/cost.json", ["out=/dev/null", "is a file"]),
]


def answer(capsys: pytest.CaptureFixture[str], action: Callable[[], Any], prefix: str = "error") -> str:
    """What an entry point says to a mistake: one line, and the exit code of one."""
    with pytest.raises(SystemExit) as caught:
        guard(action, prefix=prefix)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(f"{prefix}: ")
    assert said.count("\n") == 1
    return said


def names(words: list[str], said: str) -> None:
    for word in words:
        assert word in said


def overrides(text: str) -> list[str]:
    return [text.strip("'")] if text.count("=") < 2 or "{" in text else text.split(" ")


@pytest.mark.parametrize(("given", "words"), CONFIGURATIONS, ids=[c for c, _ in CONFIGURATIONS])
def test_configurations(given: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    names(words, answer(capsys, lambda: check_call(Call(overrides(given)))))


@pytest.mark.parametrize(("given", "words"), CONSTRUCTORS, ids=[c for c, _ in CONSTRUCTORS])
def test_values_that_constructors_refuse(given: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    plain, _ = read_configuration(overrides(given))
    names(words, answer(capsys, lambda: check_constructors(plain)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"styles": ["paint"]}, ["styles=['paint']", "noto"]),
        ({"styles": []}, ["styles=[]", "one or more"]),
        ({"scenes": 2.0}, ["scenes=2.0"]),
        ({"edits": {"remove": -1.0}}, ["edits", "remove"]),
        ({"edits": {"paint": 1.0}}, ["edits", "paint"]),
    ],
)
def test_data_options(options: dict[str, Any], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    names(words, answer(capsys, lambda: construct({"_target_": "mtdiff.data.emoji.source.EmojiSource", **options})))


@pytest.mark.parametrize(("given", "words"), COSTS, ids=[c for c, _ in COSTS])
def test_costs(given: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    names(words, answer(capsys, lambda: cost.main(given.split(" "))))


# Run folders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "good")


def at(*keys: str, value: Any) -> Change:
    """Set a value in adapter.json."""

    def change(about: dict[str, Any]) -> None:
        node = about
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value

    return change


def without(key: str) -> Change:
    return lambda about: {k: v for k, v in about.items() if k != key}


LORA = {"_target_": "baselines.lora_ffn.LoraFFN", "rank": 2}
UNET = ("backbone", "architecture", "unet")
ABOUTS: dict[str, tuple[Change, list[str]]] = {
    "no method": (without("method"), ["adapter.json", "`method` is missing"]),
    "no tasks": (without("tasks"), ["`tasks` is missing"]),
    "a list": (lambda about: [about], ["`method` is missing"]),
    "method is a text": (at("method", value="mtu"), ["method=mtu", "a mapping"]),
    "no class": (at("method", value={"experts": 2}), ["method._target_", "has to be given"]),
    "class of ours that is none": (at("method", "_target_", value="mtdiff.methods.mtu.Mtu"), ["no such class"]),
    "another kind of class": (at("method", "_target_", value="mtdiff.tasks.edit.Edit"), ["expected a Method"]),
    "unknown option": (at("method", "exprts", value=2), ["method.exprts=2", "did you mean 'experts'"]),
    "wrong type": (at("method", "experts", value="2"), ["method.experts=2", "a whole number"]),
    "value out of range": (at("method", "experts", value=0), ["method.experts=0", "at least 1"]),
    "unknown task": (at("tasks", value=["edit", "paint"]), ["tasks=paint", "text_to_image"]),
    "no task": (at("tasks", value=[]), ["tasks=[]", "at least one"]),
    "a task twice": (at("tasks", value=["edit", "edit"]), ["'edit' comes twice"]),
    "tasks are a text": (at("tasks", value="edit"), ["tasks=edit", "a list"]),
    "task of nothing": (at("task", "edit", value=None), ["task.edit", "a mapping"]),
    "sampler": (at("sampling", "sampler", value="euler"), ["sampling.sampler=euler", "ddim, dpm++"]),
    "steps": (at("sampling", "steps", value=0), ["sampling.steps=0", "1 to 1000"]),
    "guidance": (at("sampling", "guidance", value={"edit": {"txt": 1.0}}), ["sampling.guidance.edit.txt", "image"]),
    "guidance of a task is a text": (
        at("sampling", "guidance", value={"edit": "x"}),
        ["sampling.guidance.edit=x", "a mapping"],
    ),
    "guidance is a list": (at("sampling", "guidance", value=[1]), ["sampling.guidance=[1]", "a mapping"]),
    "size": (at("backbone", "size", value=17), ["backbone.size=17", "a multiple of 8"]),
    "size of a wall": (at("backbone", "size", value=10**9), ["backbone.size=1000000000"]),
    "no weights": (at("backbone", "weights", value="meta"), ["backbone.weights=meta", "no weights"]),
    "another method": (at("method", value=LORA), ["do not belong to this method and base"]),
    "other experts": (at("method", "experts", value=4), ["has shape", "expected"]),
    "another base": (at(*UNET, "block_out_channels", value=[16, 64]), ["has shape", "expected"]),
    "another base, same shapes": (at("backbone", "seed", value=3), ["another method, base or list of tasks"]),
    "fewer tasks": (at("tasks", value=["edit", "inpaint"]), ["has shape", "expected"]),
    "tasks in another order": (
        at("tasks", value=["edit", "text_to_image", "super_resolution", "inpaint"]),
        ["another method, base or list of tasks"],
    ),
    "unknown part": (at("backbone", "architecture", value={"unit": {}}), ["backbone.architecture.unit", "unet"]),
    "impossible part": (at(*UNET, "attention_head_dim", value=0), ["adapter.json", "cannot be built"]),
    "part of wrong type": (at(*UNET, "layers_per_block", value="two"), ["adapter.json", "cannot be built"]),
}


@pytest.mark.parametrize("name", ABOUTS)
def test_adapter_json(name: str, folder: Path, tmp_path: Path) -> None:
    change, words = ABOUTS[name]
    spoilt = about_changed(folder, tmp_path / "run", change)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        load_run(spoilt)
    names(words, str(caught.value))


def first(tensors: dict[str, torch.Tensor]) -> str:
    return min(tensors)


TENSORS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], Any], list[str]]] = {
    "missing": (lambda t: t.pop(first(t)), ["1 tensors do not belong"]),
    "extra": (lambda t: t.update(extra=torch.zeros(1)), ["do not belong", "'extra'"]),
    "NaN": (lambda t: t[first(t)].flatten()[:1].fill_(torch.nan), ["not finite"]),
    "infinity": (lambda t: t[first(t)].fill_(torch.inf), ["not finite"]),
    "whole numbers": (lambda t: t.update({first(t): t[first(t)].long()}), ["has type I64", "F32"]),
    "double": (lambda t: t.update({first(t): t[first(t)].double()}), ["has type F64", "F32"]),
    "shape": (lambda t: t.update({first(t): t[first(t)].flatten()}), ["has shape", "expected"]),
}


@pytest.mark.parametrize("name", TENSORS)
def test_adapter_tensors(name: str, folder: Path, tmp_path: Path) -> None:
    change, words = TENSORS[name]
    spoilt = tensors_changed(folder, tmp_path / "run", change)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        load_run(spoilt)
    names(["adapter.safetensors", *words], str(caught.value))


HEADER = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'
FILES: dict[str, tuple[str, bytes | None, list[str]]] = {
    "no adapter.json": ("adapter.json", None, ["not a finished run"]),
    "empty adapter.json": ("adapter.json", b"", ["adapter.json", "not JSON"]),
    "half of adapter.json": ("adapter.json", b'{"method": {', ["adapter.json", "not JSON"]),
    "bytes as adapter.json": ("adapter.json", b"\xff\xfe\x00", ["adapter.json", "not even UTF-8"]),
    "NaN in adapter.json": ("adapter.json", b'{"method": NaN}', ["NaN is no JSON number"]),
    "infinity in adapter.json": ("adapter.json", b'{"method": 1e999}', ["adapter.json", "Out of range"]),
    "endless number": ("adapter.json", b'{"method": ' + b"9" * 5000 + b"}", ["adapter.json", "64 bits"]),
    "half a character": ("adapter.json", b'{"method": "\\ud800"}', ["adapter.json", "surrogates"]),
    "no tensors": ("adapter.safetensors", None, ["adapter.safetensors", "no such file"]),
    "empty tensors": ("adapter.safetensors", b"", ["adapter.safetensors", "not safetensors"]),
    "text as tensors": ("adapter.safetensors", b"hello, this is text", ["adapter.safetensors", "not safetensors"]),
    "broken header": ("adapter.safetensors", struct.pack("<Q", 8) + b"{broken}", ["adapter.safetensors"]),
    "lying header": ("adapter.safetensors", struct.pack("<Q", len(HEADER)) + HEADER + b"0000", ["adapter.safetensors"]),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_a_run(name: str, folder: Path, tmp_path: Path) -> None:
    file, content, words = FILES[name]
    spoilt = copied(folder, tmp_path / "run")
    (spoilt / file).unlink()
    if content is not None:
        (spoilt / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        load_run(spoilt)
    names(words, str(caught.value))


def test_truncated_tensors(folder: Path, tmp_path: Path) -> None:
    spoilt = copied(folder, tmp_path / "run")
    data = (spoilt / "adapter.safetensors").read_bytes()
    (spoilt / "adapter.safetensors").write_bytes(data[:-7])
    with pytest.raises(ValueError, match=r"\A[^\n]*adapter.safetensors: cannot be read[^\n]+\Z"):
        load_run(spoilt)


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta", ""])
def test_devices(device: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=rf"\Adevice={device}: [^\n]+\Z"):
        load_run(folder, device)


# Requests of the library face


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return load_run(folder)


WHOLE = torch.zeros(3, 16, 16)
REQUESTS: list[tuple[dict[str, Any], list[str]]] = [
    ({"task": "edt", "prompt": "x"}, ["task=edt", "did you mean 'edit'"]),
    ({"task": 3}, ["task=3", "edit"]),
    ({"task": []}, ["task", "0 values"]),
    ({"task": "text_to_image"}, ["prompt", "needs one"]),
    ({"task": "text_to_image", "prompt": "  "}, ["prompt", "needs one"]),
    ({"task": "text_to_image", "prompt": None}, ["prompt=None", "a text"]),
    ({"task": "text_to_image", "prompt": 5}, ["prompt=5", "a text"]),
    ({"task": "text_to_image", "prompt": "\ud800"}, ["prompt", "Unicode"]),
    ({"task": "text_to_image", "prompt": "x", "image": WHOLE}, ["image", "takes none"]),
    ({"task": "text_to_image", "prompt": "x", "mask": hole()}, ["mask", "takes none"]),
    ({"task": "edit", "prompt": "x"}, ["image", "needs one"]),
    ({"task": "edit", "image": WHOLE}, ["prompt", "needs one"]),
    ({"task": "edit", "prompt": "x", "image": WHOLE, "mask": hole()}, ["mask", "takes none"]),
    ({"task": "super_resolution"}, ["image", "needs one"]),
    ({"task": "inpaint", "prompt": "x", "mask": hole()}, ["image", "needs one"]),
    ({"task": "inpaint", "prompt": "x", "image": picture(), "mask": hole(32)}, ["mask", "(32, 32)", "(16, 16)"]),
    ({"task": "inpaint", "prompt": "x", "image": WHOLE, "mask": WHOLE}, ["mask", "(1, H, W)"]),
    (
        {"task": "inpaint", "prompt": "x", "image": picture(), "mask": Image.new("L", (16, 16))},
        ["mask", "marks nothing"],
    ),
    ({"task": "inpaint", "prompt": "x", "image": picture(), "mask": Image.new("L", (16, 16), 255)}, ["whole picture"]),
    ({"task": "inpaint", "prompt": "x", "image": WHOLE, "mask": WHOLE[:1] * torch.nan}, ["mask", "256 of 256"]),
    ({"task": "edit", "prompt": "x", "image": "in.png"}, ["image", "got str"]),
    ({"task": "edit", "prompt": "x", "image": np.zeros((16, 16, 3))}, ["image", "got ndarray"]),
    ({"task": "edit", "prompt": "x", "image": WHOLE[None]}, ["image", "(3, H, W)", "(1, 3, 16, 16)"]),
    ({"task": "edit", "prompt": "x", "image": WHOLE.byte()}, ["image", "floats", "uint8"]),
    ({"task": "edit", "prompt": "x", "image": WHOLE[:, :0]}, ["image", "(3, 0, 16)"]),
    ({"task": "edit", "prompt": "x", "image": WHOLE + 2}, ["image", "from 2 to 2", "-1 to 1"]),
    ({"task": "edit", "prompt": "x", "image": WHOLE * torch.nan}, ["image", "nan"]),
    ({"task": "edit", "prompt": "x", "image": Image.new("F", (16, 16))}, ["image", "mode F", "8 bits"]),
    ({"task": ["edit"] * 3, "prompt": ["a", "b"], "image": WHOLE}, ["prompt", "2 values", "1 or 3"]),
    ({"task": "text_to_image", "prompt": "x", "seed": -1}, ["seed=-1", "at least 0"]),
    ({"task": "text_to_image", "prompt": "x", "seed": 0.5}, ["seed=0.5", "a whole number"]),
]


@pytest.mark.parametrize(("request_", "words"), REQUESTS, ids=[" ".join(w) for _, w in REQUESTS])
def test_requests(request_: dict[str, Any], words: list[str], model: Model) -> None:
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        model(**request_)
    names(words, str(caught.value))


def test_guidance_is_finite() -> None:
    with pytest.raises(ValueError, match=r"\Aguidance.text=nan: [^\n]+\Z"):
        Guidance(1.0, float("nan"))


# sample.py and export.py


def animated(path: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "green", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])


def cut(path: Path) -> None:
    picture(side=64).save(path)
    path.write_bytes(path.read_bytes()[:2000])


PICTURES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "missing.png": (lambda path: None, ["no such file"]),
    "folder.png": (lambda path: path.mkdir(), ["no such file"]),
    "text.png": (lambda path: path.write_text("no picture"), ["no picture", "PNG"]),
    "empty.png": (lambda path: path.write_bytes(b""), ["no picture"]),
    "cut.png": (cut, ["no readable picture"]),
    "moving.gif": (animated, ["3 pictures in one file"]),
    "deep.tiff": (lambda path: Image.new("F", (16, 16)).save(path), ["mode F", "8 bits"]),
    "drawing.eps": (lambda path: picture().save(path), ["no picture", "PNG"]),
    "wide.png": (lambda path: Image.new("1", (40_000, 2_000)).save(path), ["40000 x 2000 pixels", "at most"]),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture_files(name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, words = PICTURES[name]
    make(tmp_path / name)
    arguments = [f"run={folder}", "task=edit", "prompt=x", f"image={tmp_path / name}", f"out={tmp_path}/out.png"]
    names([f"image={tmp_path}"[:60], *words], answer(capsys, lambda: sample.main(arguments)))


SAMPLES: list[tuple[list[str], list[str]]] = [
    (["task=edit"], ["out", "has to be given"]),
    (["task=edit", "out="], ["out", "has to be given"]),
    (["out=x.png"], ["task", "has to be given"]),
    (["task=edit", "out=x.png", "nonsense"], ["nonsense", "key=value"]),
    (["task=edit", "out=x.png", "promt=x"], ["option=promt", "did you mean 'prompt'"]),
    (["task=edit", "task=inpaint", "out=x.png"], ["task=inpaint", "given twice"]),
    (["task=edt", "out=x.png"], ["task=edt", "did you mean 'edit'"]),
    (["task=edit", "out=x.png", "seed=one"], ["seed=one", "whole number of at least 0"]),
    (["task=edit", "out=x.png", "seed=-1"], ["seed=-1", "at least 0"]),
    (["task=edit", "out=x.png", "steps=0"], ["steps=0", "at least 1"]),
    (["task=edit", "out=x.png", "steps=5000"], ["steps=5000", "1 to 1000"]),
    (["task=edit", "out=x.png", "text_guidance=nan"], ["text_guidance=nan", "finite"]),
    (["task=edit", "out=x.png", "image_guidance=-inf"], ["image_guidance=-inf", "finite"]),
    (["task=edit", "out=x.exe"], ["out=x.exe", ".png"]),
    (["task=edit", "out=/nowhere/at/all/x.png"], ["out=/nowhere/at/all/x.png", "no folder"]),
    (["task=text_to_image", "out=x.png", "inherit=block"], ["inherit=block", "a mapping"]),
    (["task=text_to_image", "out=x.png", "inherit={level: row, every: 2}"], ["level=row", "block, layer, unit"]),
    (["task=text_to_image", "out=x.png", "switch={light: nowhere}"], ["sampling.switch.until", "a finite number"]),
    (["task=text_to_image", "out=x.png", "device=warp", "prompt=x"], ["device=warp"]),
    (["task=text_to_image", "out=x.png"], ["prompt", "needs one"]),
]


@pytest.mark.parametrize(("arguments", "words"), SAMPLES, ids=[" ".join(a) for a, _ in SAMPLES])
def test_sample(
    arguments: list[str],
    words: list[str],
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names(words, answer(capsys, lambda: sample.main([f"run={folder}", *arguments])))
    assert not list(tmp_path.iterdir())


def test_sample_without_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["run=nowhere", "task=edit", f"out={tmp_path}/x.png"]
    names(["run=nowhere", "no such folder"], answer(capsys, lambda: sample.main(arguments)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["task=edit"], ["out", "has to be given"]),
        (["task=edt", "out={}/new"], ["task=edt", "did you mean 'edit'"]),
        (["task=edit", "out={}"], ["an empty folder"]),
        (["task=edit", "out={}/file"], ["is a file"]),
        (["task=edit", "out={}/file/new"], ["file is a file"]),
        (["task=edit", "out={}/new", "steps=3"], ["option=steps", "packages"]),
    ],
)
def test_export(
    arguments: list[str], words: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("here first")
    given = [f"run={folder}", *(a.format(tmp_path) for a in arguments)]
    names(words, answer(capsys, lambda: export.main(given)))


# Results


def content() -> dict[str, Any]:
    rows = [Row("edit", "psnr", "higher", 20.0, 4, 19.0, 21.0)]
    return json.loads(json.dumps(asdict(Result("mtu", "nano", "emoji", ["edit"], 0, rows=rows))))


RESULTS: dict[str, tuple[Change, list[str]]] = {
    "not a mapping": (lambda c: [c], ["schema"]),
    "another schema": (at("schema", value=99), ["schema", "99"]),
    "no rows": (without("rows"), ["rows", "missing"]),
    "rows are a text": (at("rows", value="none"), ["rows", "a list"]),
    "unknown key": (at("extra", value=1), ["extra", "unknown"]),
    "unknown status": (at("status", value="won"), ["status", "complete"]),
    "seed is a text": (at("seed", value="0"), ["seed", "a whole number"]),
    "negative steps": (at("steps", value=-1), ["steps", "at least 0"]),
    "tasks are a text": (at("tasks", value="edit"), ["tasks", "a list of texts"]),
    "versions are numbers": (at("versions", value={"torch": 2}), ["versions"]),
    "row without a metric": (lambda c: c["rows"][0].pop("metric") and None, ["rows[0].metric", "missing"]),
    "row of another way": (lambda c: c["rows"][0].update(direction="up"), ["rows[0].direction", "lower, higher"]),
    "value is a text": (lambda c: c["rows"][0].update(value="20"), ["rows[0].value", "a finite number"]),
    "blank without a reason": (lambda c: c["rows"][0].update(value=None), ["rows[0].reason"]),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results(name: str, tmp_path: Path) -> None:
    change, words = RESULTS[name]
    found = content()
    returned = change(found)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(found if returned is None else returned))
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        Result.load(path)
    names([str(path), *words], str(caught.value))


RESULT_FILES: dict[str, tuple[bytes, list[str]]] = {
    "empty": (b"", ["not JSON"]),
    "half": (b'{"schema": 1,', ["not JSON"]),
    "bytes": (b"\xff\xff", ["not even UTF-8"]),
    "NaN": (b'{"schema": NaN}', ["NaN is no JSON number"]),
    "infinity": (b'{"schema": 1e999}', ["Out of range"]),
}


@pytest.mark.parametrize("name", RESULT_FILES)
def test_tables(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, words = RESULT_FILES[name]
    (tmp_path / "result.json").write_bytes(data)
    arguments = [f"results={tmp_path}/*.json", f"out={tmp_path}/table"]
    said = answer(capsys, lambda: table.main(arguments), "table.py")
    names([f"{tmp_path}/result.json", *words], said)


@pytest.fixture
def good_result(tmp_path: Path) -> Path:
    (tmp_path / "result.json").write_text(json.dumps(content()))
    return tmp_path / "result.json"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["results=/nowhere/*.json"], ["results=/nowhere/*.json", "no such file"]),
        (["result=x"], ["result=x", "results="]),
        (["results="], ["results=", "results=..."]),
        (["out=/dev/null/table", "results={}"], ["/dev/null"]),
    ],
)
def test_table_options(
    arguments: list[str], words: list[str], good_result: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [a.format(good_result) for a in arguments]
    names(words, answer(capsys, lambda: table.main(given), "table.py"))


# The same as commands


@pytest.fixture(scope="module")
def commands(folder: Path) -> list[list[str]]:
    return [
        ["run.py", "training.lr=nan"],
        ["run.py", "-m", "method=mtu,lora_ffn", "seed=0,-1"],
        ["sample.py", f"run={folder}", "task=edt", "out=x.png"],
        ["export.py", f"run={folder}", "task=edt", "out=x"],
        ["cost.py", "method=foo"],
        ["table.py", "results=/nowhere/*.json"],
    ]


def test_commands(commands: list[list[str]], tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "experiments" / script), *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for script, *arguments in commands
    ]
    for process, command in zip(started, commands, strict=True):
        said, errors = process.communicate()
        assert process.returncode == 2, (command, errors)
        assert said == ""
        assert errors.count("\n") == 1, errors
        assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())
