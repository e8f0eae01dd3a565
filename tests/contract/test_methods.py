"""The contract of every method: each YAML under configs/method, and the variants below, on each tiny backbone."""

import copy
import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
import yaml
from method_cases import (
    CANNOT_FOLD,
    CASES,
    CONFIGS,
    NAMES,
    adapted,
    base,
    inputs_of,
    make,
    mix,
    options,
    shake,
    takes,
)
from safetensors.torch import load_file, save_file
from tiny import BACKBONES, TASKS, sd15_shapes, sdxl_shapes
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from mtdiff.methods.base import CannotFold, Method
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Condition

MIXED = [2, 0, 3, 1, 0, 3]


@torch.no_grad()
def run(denoiser: Denoiser, task: list[int], seed: int = 0) -> Tensor:
    return denoiser(*inputs_of(denoiser, task, seed))


def gradients(denoiser: Denoiser, task: list[int], seed: int = 0) -> dict[str, Tensor]:
    denoiser.zero_grad()
    given = mix(denoiser, *inputs_of(denoiser, task, seed))
    loss = denoiser(*given).square().mean()
    if denoiser.method.process is not None:
        loss = loss + sum(error.mean() for error in denoiser.extra_errors(*given).values())
    loss.backward()
    return {k: p.grad for k, p in denoiser.backbone.denoiser.named_parameters() if p.grad is not None}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((a - b).abs().max() <= tolerance * max(1.0, float(b.abs().max())))


@pytest.fixture(params=[(c, b) for c in CASES for b in BACKBONES if takes(c, b)], ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[str, str]:
    return request.param


@pytest.fixture
def case(pair: tuple[str, str]) -> str:
    return pair[0]


@pytest.fixture
def backbone(pair: tuple[str, str]) -> str:
    return pair[1]


def test_shape_and_the_base_before_training(case: str, backbone: str) -> None:
    denoiser = adapted(case, backbone)
    noisy, t, condition = inputs_of(denoiser, MIXED)
    with torch.no_grad():
        out, untouched = denoiser(noisy, t, condition), base(backbone).predict(noisy, t, condition)
    assert out.shape == noisy.shape
    assert torch.isfinite(out).all()
    if denoiser.method.equals_base:
        assert close(out, untouched)


def test_trains_exactly_what_it_says(case: str, backbone: str) -> None:
    denoiser = adapted(case, backbone).train()
    network = denoiser.backbone.denoiser
    before = {k: v.clone() for k, v in network.state_dict().items()}
    trained = denoiser.trained_parameters()
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    for step in range(3):  # what sits behind a zero start gets its first gradient one step later
        found = gradients(denoiser, MIXED, seed=step)
        optimizer.step()
    assert set(found) == set(trained)
    assert [k for k, g in found.items() if not g.any()] == []
    after = network.state_dict()
    assert [k for k in before if k not in trained and not torch.equal(before[k], after[k])] == []
    assert [k for k in trained if torch.equal(before[k], after[k])] == []


def test_adapter_travels_alone(case: str, backbone: str, tmp_path: Path) -> None:
    first, second = adapted(case, backbone, shaken=0.05), adapted(case, backbone)
    path = tmp_path / "adapter.safetensors"
    save_file({k: v.contiguous() for k, v in first.adapter().items()}, path)
    state = load_file(path)
    assert set(first.trained_parameters()) <= set(state)
    second.load_adapter(state)
    assert torch.equal(run(first, MIXED), run(second, MIXED))
    with pytest.raises(ValueError, match="1 tensors do not belong"):
        second.load_adapter({k: v for k, v in state.items() if k != next(iter(state))})


def test_samples_do_not_see_each_other(case: str, backbone: str) -> None:
    """A permuted batch gives the permuted result, and a mixed batch what its tasks give one by one."""
    denoiser = adapted(case, backbone, shaken=0.05)
    noisy, t, condition = inputs_of(denoiser, MIXED)
    with torch.no_grad():
        out = denoiser(noisy, t, condition)
        order = torch.tensor([3, 5, 0, 4, 1, 2])
        assert close(denoiser(noisy[order], t[order], condition[order]), out[order])
        for task in set(MIXED):
            rows = condition.task == task
            assert close(denoiser(noisy[rows], t[rows], condition[rows]), out[rows])


def test_gradient_checkpointing_changes_no_gradient(case: str, backbone: str) -> None:
    denoiser = adapted(case, backbone, shaken=0.05).train()
    plain = gradients(denoiser, MIXED)
    denoiser.backbone.enable_gradient_checkpointing()
    again = gradients(denoiser, MIXED)
    assert set(again) == set(plain)
    assert [k for k in plain if not (again[k] - plain[k]).norm() <= 1e-5 * plain[k].norm() + 1e-9] == []


def test_deep_copy_is_independent(case: str, backbone: str) -> None:
    denoiser = adapted(case, backbone, shaken=0.05)
    before = run(denoiser, MIXED)
    twin = shake(copy.deepcopy(denoiser), 0.1)
    assert not torch.equal(run(twin, [1, 1]), run(denoiser, [1, 1]))
    twin_routed = [m.routing for m in twin.backbone.modules() if "routing" in vars(m)]
    assert all(routing is twin.routing for routing in twin_routed)
    run(twin, [1, 2])
    assert torch.equal(run(denoiser, MIXED), before)


def test_a_task_is_isolated(case: str, backbone: str) -> None:
    """No row of a task's parameters gets gradient from another task's samples."""
    denoiser = adapted(case, backbone, shaken=0.05)
    rows = denoiser.method.task_parameters(denoiser.backbone)
    for task in range(len(TASKS)):
        gradients(denoiser, [task, task], seed=task)
        others = [k for k in range(len(TASKS)) if k != task]
        assert all(p.grad is not None and p.grad[task].any() and not p.grad[others].any() for p in rows)


def test_folds_into_a_plain_network(case: str, backbone: str, tmp_path: Path) -> None:
    denoiser = adapted(case, backbone, shaken=0.05)
    if case.startswith(CANNOT_FOLD):
        before = run(denoiser, MIXED)
        with pytest.raises(CannotFold, match=r"^[^\n]{20,100}$"):
            denoiser.method.fold(denoiser.backbone, 0)
        assert torch.equal(run(denoiser, MIXED), before)
        return
    for task in (0, 3):
        noisy, t, condition = inputs_of(denoiser, [task] * 3)
        folded = copy.deepcopy(denoiser.backbone)
        denoiser.method.fold(folded, task)
        plain = type(folded.denoiser)
        assert plain.__module__.startswith("diffusers.")
        folded.denoiser.save_pretrained(tmp_path / str(task))
        read = plain.from_pretrained(tmp_path / str(task))
        assert set(read.state_dict()) == set(folded.denoiser.state_dict())
        assert [type(m) for m in read.modules()] == [type(m) for m in folded.denoiser.modules()]
        folded.denoiser = read
        with torch.no_grad():
            expected = denoiser(noisy, t, condition)
            assert close(denoiser.method.layout(folded.predict, noisy, t, condition), expected)


def test_runs_in_bfloat16(case: str, backbone: str) -> None:
    denoiser = adapted(case, backbone, shaken=0.05)
    exact = run(denoiser, MIXED)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(denoiser, MIXED)
        assert close(run(denoiser, MIXED).float(), exact, 0.1)
    assert all(torch.isfinite(g).all() for g in found.values())


FULL_SIZE = {"sd15": cache(sd15_shapes), "sdxl": cache(sdxl_shapes)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", list(FULL_SIZE))
def test_builds_at_full_size_without_values(size: str, name: str) -> None:
    denoiser = Denoiser(copy.deepcopy(FULL_SIZE[size]()), make(name), TASKS)
    assert all(v.is_meta for v in denoiser.backbone.denoiser.state_dict().values())
    assert denoiser.trained_parameters()


@pytest.mark.parametrize("name", NAMES)
def test_counts_at_full_size_without_values(name: str) -> None:
    """Costs are counted on shapes alone; the canvas is the one method that is dearer than the base."""
    backbone = copy.deepcopy(FULL_SIZE["sd15"]())
    denoiser = Denoiser(backbone, make(name), TASKS)
    with torch.device("meta"):
        latent, task = torch.empty(1, *backbone.latent_shape), torch.empty(1, dtype=torch.long)
        condition = Condition(latent, latent[:, :1], torch.empty(1, 77, 768), task)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert denoiser(latent, task, condition).shape == latent.shape
    dearer = counter.get_total_flops() / 0.8033e12
    assert 2.2 < dearer < 2.4 if name == "one_pic" else 0.999 < dearer < 1.03


@pytest.mark.parametrize("name", NAMES)
def test_yaml_says_every_option_with_its_default(name: str) -> None:
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    cls: Any = locate(given.pop("_target_"))
    parameters = inspect.signature(cls).parameters
    default = {k: list(p.default) if isinstance(p.default, tuple) else p.default for k, p in parameters.items()}
    assert given == default
    with pytest.raises(TypeError, match=r"unknown_option|takes no arguments"):
        cls(**given, unknown_option=1)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mtu", {"experts": 0}),
        ("mtu", {"top_k": 5}),
        ("mtu", {"granularity": 0.0}),
        ("mtu", {"router_input": "text"}),
        ("finetune", {"parts": ["attention"]}),
        ("finetune", {"parts": []}),
        ("lora_ffn", {"rank": 0}),
        ("lora_ffn", {"alpha": 0.0}),
        ("lora_ffn", {"dropout": 1.0}),
        ("lora_ffn", {"targets": ["all"]}),
        ("ia3", {"targets": []}),
        ("dtr", {"routing": "sample"}),
        ("dtr", {"alpha": 0.0}),
        ("dtr", {"beta": 1.5}),
        ("one_pic", {"train": "dora"}),
        ("joint", {"picture": "M"}),
        ("joint", {"label": "U"}),
        ("joint", {"strength": -1.0}),
        ("joint", {"head_weight": float("inf")}),
        ("joint", {"classes": 1}),
        ("emma", {"references": ["a", "a"]}),
        ("emma", {"weights": [1.0, 0.5]}),
        ("emma", {"blocks": 0}),
        ("emma", {"width": 6}),
        ("emma", {"gate": "tanh"}),
        ("emma", {"shape": [5]}),
    ],
)
def test_wrong_option_gets_one_line(name: str, wrong: dict[str, Any]) -> None:
    given = {**options(name), **wrong}
    cls: Callable[..., Method] = locate(given.pop("_target_"))  # type: ignore[assignment]
    (option,) = wrong
    with pytest.raises(ValueError, match=rf"^method\.{option}=[^\n]*: expected [^\n]*$"):
        cls(**given)
