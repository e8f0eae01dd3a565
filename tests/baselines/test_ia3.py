"""(IA)^3 against `peft`'s own layers."""

import copy

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from tiny import TASKS, inputs
from torch import nn

from baselines.ia3 import IA3
from baselines.peft_layers import ScaledLinear
from mtdiff.backbones.base import Backbone
from mtdiff.model.denoiser import Denoiser


def adapted(backbone: Backbone) -> dict[str, ScaledLinear]:
    return {k: m for k, m in backbone.denoiser.named_modules() if isinstance(m, ScaledLinear)}


def shaken(module: nn.Module) -> None:
    torch.manual_seed(3)
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.3 * torch.randn(p.shape))


def test_places(tiny_unet: Backbone) -> None:
    """Keys, values and the input of the last feed-forward product, in every block."""
    Denoiser(tiny_unet, IA3(), TASKS)
    places = adapted(tiny_unet)
    blocks = len(tiny_unet.sites("ffn"))
    ends = [".".join(name.split(".")[-3:]) for name in places]
    for end in ("attn1.to_k", "attn1.to_v", "attn2.to_k", "attn2.to_v", "ff.net.2"):
        assert len([e for e in ends if e.endswith(end)]) == blocks
    assert len(places) == 5 * blocks
    assert all(m.on_input == name.endswith("net.2") for name, m in places.items())


def test_equals_the_merged_model_of_peft(tiny_unet: Backbone) -> None:
    reference = copy.deepcopy(tiny_unet)
    denoiser = Denoiser(tiny_unet, IA3(), TASKS)
    shaken(denoiser)
    ours = adapted(tiny_unet)
    inner = [name for name, m in ours.items() if m.on_input]
    config = peft.IA3Config(target_modules=list(ours), feedforward_modules=inner)
    peft.inject_adapter_in_model(config, reference.denoiser)
    reference.sites("input")[0].replace(tiny_unet.sites("input")[0].module.fold(1))
    layers = {k: m for k, m in reference.denoiser.named_modules() if isinstance(m, BaseTunerLayer)}
    assert set(layers) == set(ours)
    for name, layer in layers.items():
        layer.ia3_l["default"].data.copy_(ours[name].ia3[1].view_as(layer.ia3_l["default"]))
    noisy, t, condition = inputs(tiny_unet, [1, 1])
    with torch.no_grad():
        out = denoiser(noisy, t, condition)
        torch.testing.assert_close(
            denoiser.method.layout(reference.predict, noisy, t, condition), out, atol=1e-5, rtol=1e-5
        )
        for layer in layers.values():
            layer.merge()
        torch.testing.assert_close(
            denoiser.method.layout(reference.predict, noisy, t, condition), out, atol=1e-5, rtol=1e-5
        )


def test_biases_are_scaled_with_the_output() -> None:
    from mtdiff.methods.routing import Routing

    routing, linear = Routing(), nn.Linear(6, 5)
    layer, x = ScaledLinear(linear, 2, routing, "out"), torch.randn(3, 4, 6)
    shaken(layer)
    routing.write(torch.tensor([1, 0, 1]), torch.zeros(3))
    assert layer.bias is not None
    torch.testing.assert_close(layer(x)[0], layer.fold(1)(x[0]))
    torch.testing.assert_close(layer(x)[1], layer.fold(0)(x[1]))
