"""Options of memory and speed change nothing but memory and speed, and say what is wrong in one line."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import TASKS, inputs, tiny_unet
from tiny_joint import tiny_label
from torch import nn
from whole_runs import composed

from mtdiff.backbones.base import Backbone
from mtdiff.config.schema import check_arguments
from mtdiff.config.settings import Speed, Training
from mtdiff.config.signatures import signature
from mtdiff.errors import ConfigError, RunError
from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.runs.checks import check_speed, check_trainer
from mtdiff.training.memory import advise, use_channels_last, within_memory
from mtdiff.training.optimizers import clip_gradients, make_optimizer
from mtdiff.training.parallel import Sharded, trainer_arguments

TRAINERS = sorted((Path(__file__).parents[2] / "experiments" / "configs" / "trainer").glob("*.yaml"))
TRAINING = Training(steps=10, batch_size=8, lr=1e-3)


def denoiser(backbone: Callable[[], Backbone] = tiny_unet) -> Denoiser:
    torch.manual_seed(0)
    made = Denoiser(backbone(), MTU(experts=2), TASKS)
    with torch.no_grad():
        for p in made.trained_parameters().values():
            p.add_(0.05 * torch.randn(p.shape))
    return made


@pytest.mark.parametrize("path", TRAINERS, ids=lambda p: p.stem)
def test_every_preset_is_one_of_lightnings(path: Path) -> None:
    given = yaml.safe_load(path.read_text())
    assert path.read_text().startswith("# @package _global_\n")
    assert set(given) == {"trainer", "speed"}
    check_trainer(given["trainer"])
    check_arguments("speed", list(signature("mtdiff.config.settings.Speed")), given["speed"])
    assert set(given["speed"]) == set(vars(Speed()))


def test_fsdp_over_all_processes() -> None:
    strategy = trainer_arguments({"strategy": "fsdp", "devices": 4, "num_nodes": 2})["strategy"]
    assert isinstance(strategy, Sharded)
    assert trainer_arguments({"strategy": "ddp"}) == {"strategy": "ddp"}
    with pytest.raises(ValueError, match=r"^trainer.devices=auto: expected a number"):
        trainer_arguments({"strategy": "fsdp", "devices": "auto"})


def test_compiled_denoiser_keeps_names_and_reads_the_routing() -> None:
    """Also after the tasks of a batch have changed, which are no argument of the compiled network."""
    plain = denoiser(tiny_label)
    compiled = copy.deepcopy(plain)
    compiled.backbone.compile_denoiser(in_parts=True, backend="eager")  # traced and guarded, but no code is generated
    assert list(compiled.backbone.denoiser.state_dict()) == list(plain.backbone.denoiser.state_dict())
    for tasks in ([0, 1], [3, 2]):
        with torch.no_grad():
            found, expected = (d(*inputs(d.backbone, tasks)) for d in (compiled, plain))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain(*inputs(plain.backbone, [0, 1])), plain(*inputs(plain.backbone, [1, 0])))


def test_channels_last_changes_the_layout_alone() -> None:
    plain = denoiser()
    other = copy.deepcopy(plain)
    use_channels_last(other.backbone)
    assert other.backbone.denoiser.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        found, expected = (d(*inputs(d.backbone, [0, 1, 2, 3])) for d in (other, plain))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_fused_optimiser_steps_as_the_plain_one(name: str) -> None:
    torch.manual_seed(0)
    plain, fused = nn.Linear(8, 8), nn.Linear(8, 8)
    fused.load_state_dict(plain.state_dict())
    training = replace(TRAINING, optimizer=name, lr=1e-2, weight_decay=0.1, betas=(0.9, 0.99))
    for model, flag in ((plain, False), (fused, True)):
        optimizer = make_optimizer([{"params": list(model.parameters())}], training, flag)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.ones(2, 8)).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(fused.weight, plain.weight)
    reference = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    assert type(optimizer) is reference


def test_clipping_as_torch_does() -> None:
    ours, torchs = (nn.Linear(3, 2) for _ in range(2))
    torchs.load_state_dict(ours.state_dict())
    for model in (ours, torchs):
        model(torch.full((1, 3), 5.0)).sum().backward()
    expected = nn.utils.clip_grad_norm_(torchs.parameters(), 0.1)
    torch.testing.assert_close(clip_gradients(ours.parameters(), 0.1), expected)
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)
    assert clip_gradients([nn.Parameter(torch.ones(1))], 0.1) == 0


def test_missing_bitsandbytes_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtdiff.config.settings.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"^training.optimizer=adamw_8bit: needs bitsandbytes, pip install"):
        replace(TRAINING, optimizer="adamw_8bit")


def test_eight_bits_on_a_cpu_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^training.optimizer=adamw_8bit: expected trainer.accelerator=gpu"):
        composed(["training.optimizer=adamw_8bit"])


def test_out_of_memory_names_what_is_left_to_change() -> None:
    trainer: dict[str, Any] = {"precision": "32-true", "strategy": "auto"}
    with (
        pytest.raises(RunError, match=r"^out of memory while training; try [^\n]*$") as error,
        within_memory("training", advise(TRAINING, trainer)),
    ):
        torch.empty(1 << 50)
    said = str(error.value)
    for setting in (
        "trainer.precision=bf16-mixed",
        "gradient_checkpointing=true",
        "batch_size=4 training.accumulate=2",
    ):
        assert setting in said
    thrifty = replace(TRAINING, batch_size=1, gradient_checkpointing=True, optimizer="adam")
    assert advise(thrifty, {"precision": "bf16-mixed", "strategy": "fsdp"}) == []
    with pytest.raises(RuntimeError, match="shape"), within_memory("training", []):
        torch.ones(2).view(3)


def test_float16_with_a_fused_optimiser_is_refused() -> None:
    check_speed({"fused": True}, {"precision": "bf16-mixed"})
    with pytest.raises(ConfigError, match=r"^speed.fused=true: expected false"):
        check_speed({"fused": True}, {"precision": "16-mixed"})


def test_a_condition_moves_whole() -> None:
    """To a device, task ids and whole-number extras too; to a type, only what has a fraction."""
    _, _, condition = inputs(tiny_unet(), [0, 3])
    condition = replace(condition, extra={"label": torch.tensor([1, 2]), "pooled": torch.ones(2, 3)})
    moved = condition.to("meta")
    assert all(v.is_meta for v in (moved.source, moved.mask, moved.text, moved.task, *moved.extra.values()))
    half = condition.to(torch.bfloat16)
    assert (half.text.dtype, half.extra["pooled"].dtype) == (torch.bfloat16, torch.bfloat16)
    assert (half.task.dtype, half.extra["label"].dtype) == (torch.int64, torch.int64)
    both = condition.to("meta", torch.bfloat16)
    assert both.text.is_meta
    assert both.text.dtype == torch.bfloat16
    assert both.extra["label"].is_meta
