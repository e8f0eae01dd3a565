"""LoRA experts: a LoRA of the whole rank at the start, a mixture by the task after it."""

import copy

import pytest
import torch
from method_cases import shake
from tiny import TASKS, inputs
from torch import Tensor

from baselines.lora_experts import ROUTER, ExpertLora, LoraExperts
from baselines.lora_ffn import LoraFFN
from baselines.peft_layers import LoraLinear
from mtdiff.backbones.base import Backbone
from mtdiff.model.denoiser import Denoiser


@torch.no_grad()
def predict(denoiser: Denoiser, task: list[int]) -> Tensor:
    return denoiser(*inputs(denoiser.backbone, task))


@torch.no_grad()
def test_with_fresh_routers_it_is_a_lora_of_the_whole_rank(tiny_unet: Backbone) -> None:
    plain = Denoiser(copy.deepcopy(tiny_unet), LoraFFN(rank=8, alpha=4.0, per_task=False), TASKS)
    mixed = Denoiser(tiny_unet, LoraExperts(experts=4, rank=8, alpha=4.0), TASKS)
    shake(plain, 0.1)
    theirs = [m for m in plain.backbone.modules() if isinstance(m, LoraLinear)]
    ours = [m for m in mixed.backbone.modules() if isinstance(m, ExpertLora)]
    for a, b in zip(theirs, ours, strict=True):
        b.lora_a.copy_(a.lora_a[0])
        b.lora_b.copy_(a.lora_b[0])
    for name, value in plain.adapter().items():
        if name.startswith("conv_in"):
            mixed.adapter()[name].copy_(value)
    torch.testing.assert_close(predict(mixed, [0, 2, 3]), predict(plain, [0, 2, 3]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_experts_are_mixed_by_the_task_with_one_router_a_block(tiny_unet: Backbone) -> None:
    denoiser = shake(Denoiser(tiny_unet, LoraExperts(experts=2, rank=4), TASKS), 0.1)
    block = denoiser.backbone.sites("ffn")[0].module
    layer = next(m for m in block.modules() if isinstance(m, ExpertLora))
    assert len([m for m in block.modules() if isinstance(m, ExpertLora)]) == 2
    x, task = torch.randn(3, 5, layer.weight.shape[1]), torch.tensor([0, 1, 3])
    denoiser.routing.write(task, torch.zeros(3))
    w = block.get_submodule(ROUTER)(task)  # (3, 2)
    torch.testing.assert_close(w.sum(1), torch.ones(3))
    assert (w[0] - w[1]).abs().max() > 1e-3
    a, b = layer.lora_a.view(2, 2, -1), layer.lora_b.view(-1, 2, 2)  # (N, r, I), (O, N, r)
    expected = x @ layer.weight.T + layer.bias
    for i in range(2):
        expected = expected + (16 / 4) * 2 * w[:, i, None, None] * (x @ a[i].T @ b[:, i].T)
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)
    found = denoiser.method.report(denoiser.backbone, TASKS)["router"]
    assert len(found) == len(denoiser.backbone.sites("ffn"))
    assert next(iter(found.values()))["edit"] == pytest.approx(w[1].tolist(), abs=1e-4)


def test_bad_options_are_one_line() -> None:
    with pytest.raises(ValueError, match=r"method.experts=3: expected a whole number from 1 that divides rank=16"):
        LoraExperts(experts=3)
    with pytest.raises(ValueError, match=r"method.router_rate=-1"):
        LoraExperts(router_rate=-1)
