"""LoRA and DoRA against `peft`'s own layers: forward, gradients and merged model."""

import copy
from typing import Any

import peft
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import TASKS, inputs
from torch import nn

from baselines.lora_ffn import LoraFFN
from baselines.peft_layers import LoraLinear
from mtdiff.backbones.base import Backbone
from mtdiff.methods.routing import Routing
from mtdiff.model.denoiser import Denoiser


def shaken(module: nn.Module, size: float) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn(p.shape))


def tell(layer: Any, ours: LoraLinear, adapter: int) -> None:
    """Give peft's layer the values of one of our adapters."""
    layer.lora_A["default"].weight.data.copy_(ours.lora_a[adapter])
    layer.lora_B["default"].weight.data.copy_(ours.lora_b[adapter])
    if ours.length is not None:
        layer.lora_magnitude_vector["default"].weight.data.copy_(ours.length[adapter])


def theirs(model: nn.Module, names: list[str], dora: bool) -> nn.Module:
    config = peft.LoraConfig(r=4, lora_alpha=6, use_dora=dora, target_modules=names)
    return peft.inject_adapter_in_model(config, model)


@pytest.mark.parametrize("dora", [False, True])
def test_equals_the_merged_model_of_peft(tiny_unet: Backbone, dora: bool) -> None:
    reference = copy.deepcopy(tiny_unet)
    denoiser = Denoiser(tiny_unet, LoraFFN(rank=4, alpha=6, use_dora=dora), TASKS)
    shaken(denoiser, 0.3)
    ours = {k: m for k, m in tiny_unet.denoiser.named_modules() if isinstance(m, LoraLinear)}
    assert len(ours) == 2 * len(tiny_unet.sites("ffn"))
    theirs(reference.denoiser, list(ours), dora)
    reference.sites("input")[0].replace(tiny_unet.sites("input")[0].module.fold(2))
    layers = {k: m for k, m in reference.denoiser.named_modules() if isinstance(m, BaseTunerLayer)}
    assert set(layers) == set(ours)
    for name, layer in layers.items():
        tell(layer, ours[name], 2)
        layer.merge()
    noisy, t, condition = inputs(tiny_unet, [2, 2])
    with torch.no_grad():
        out = denoiser(noisy, t, condition)
        torch.testing.assert_close(
            out, denoiser.method.layout(reference.predict, noisy, t, condition), atol=1e-5, rtol=1e-5
        )
        for name, layer in layers.items():
            torch.testing.assert_close(ours[name].fold(2).weight, layer.get_base_layer().weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_mixed_batch_and_its_gradients_equal_one_peft_layer_a_task(dora: bool, bias: bool) -> None:
    torch.manual_seed(0)
    linear, routing = nn.Linear(12, 20, bias=bias).double().requires_grad_(False), Routing()
    ours = LoraLinear(linear, 3, routing, rank=4, alpha=6.0, dropout=0.0, dora=dora)
    shaken(ours, 0.3)
    x, task = torch.randn(5, 7, 12, dtype=torch.double), torch.tensor([2, 0, 1, 2, 2])
    routing.write(task, task)
    y, weight = ours(x), torch.randn(5, 7, 20, dtype=torch.double)
    (y * weight).sum().backward()
    for k in range(3):
        model = theirs(nn.Sequential(copy.deepcopy(linear)), ["0"], dora)
        layer: Any = model[0]  # type: ignore[index]
        layer.double()
        tell(layer, ours, k)
        rows = task == k
        torch.testing.assert_close(model(x[rows]), y[rows])
        (model(x[rows]) * weight[rows]).sum().backward()
        torch.testing.assert_close(layer.lora_A["default"].weight.grad, ours.lora_a.grad[k])
        torch.testing.assert_close(layer.lora_B["default"].weight.grad, ours.lora_b.grad[k])
        if dora:
            torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight.grad, ours.length.grad[k])


def test_starts_as_peft_starts() -> None:
    """The same distribution: A uniform within 1 / sqrt(width), B zero."""
    linear = nn.Linear(400, 30).requires_grad_(False)
    ours = LoraLinear(linear, 2, Routing(), rank=8, alpha=8.0, dropout=0.0, dora=True)
    layer: Any = theirs(nn.Sequential(copy.deepcopy(linear)), ["0"], True)[0]  # type: ignore[index]
    for a in (*ours.lora_a, layer.lora_A["default"].weight):
        assert 0.04 < a.abs().max() <= 0.05
    assert not ours.lora_b.any()
    torch.testing.assert_close(ours.length[0], layer.lora_magnitude_vector["default"].weight)


def test_dropout_acts_in_training_on_the_low_rank_path_alone() -> None:
    torch.manual_seed(0)
    ours = LoraLinear(nn.Linear(12, 20), 1, Routing(), rank=4, alpha=4.0, dropout=0.5, dora=False)
    x = torch.randn(5, 7, 12)
    assert torch.equal(ours(x), nn.functional.linear(x, ours.weight, ours.bias))  # B is zero
    shaken(ours, 0.3)
    assert not torch.equal(ours(x), ours(x))
    ours.eval()
    assert torch.equal(ours(x), ours(x))


def test_one_shared_adapter_needs_no_routing() -> None:
    ours = LoraLinear(nn.Linear(12, 20), 1, Routing(), rank=4, alpha=4.0, dropout=0.0, dora=False)
    assert ours(torch.randn(2, 3, 12)).shape == (2, 3, 20)


def test_counts(tiny_unet: Backbone) -> None:
    """rank (in + out) per product and task, and the input convolutions."""
    denoiser = Denoiser(tiny_unet, LoraFFN(rank=4), TASKS)
    products = sum(4 * 4 * (c + 8 * c) + 4 * 4 * (4 * c + c) for c in (s.width for s in tiny_unet.sites("ffn")))
    convolutions = 4 * (16 * 9 * 9 + 16)
    assert sum(p.numel() for p in denoiser.trained_parameters().values()) == products + convolutions
