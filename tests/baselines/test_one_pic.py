"""The layouts: ONE-PIC's canvas and the channels beside the latent."""

import copy

import pytest
import torch
from tiny import TASKS, inputs
from torch import Tensor

from baselines.one_pic import OnePic
from mtdiff.backbones.base import Backbone
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.methods.layout import Canvas, ChannelConcat
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Condition

MIXED = [1, 0, 3, 0, 2]


def recorded(layout: Canvas | ChannelConcat, backbone: Backbone, task: list[int]) -> list[tuple[Tensor, Condition]]:
    """What a layout hands to the denoiser."""
    calls: list[tuple[Tensor, Condition]] = []

    def predict(packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        calls.append((packed, condition))
        return packed[:, :4] + condition.task.view(-1, 1, 1, 1)

    noisy, t, condition = inputs(backbone, task)
    out = layout(predict, noisy, t, condition)
    torch.testing.assert_close(out, noisy + condition.task.view(-1, 1, 1, 1))  # the target's own part, in order
    return calls


def test_source_left_target_right_and_the_target_alone_without_a_source(tiny_unet: Backbone) -> None:
    noisy, _, condition = inputs(tiny_unet, MIXED)
    beside, alone = recorded(Canvas(), tiny_unet, MIXED)
    assert torch.equal(beside[0], torch.cat([condition.source, noisy], -1)[[0, 2, 4]])
    assert beside[1].task.tolist() == [1, 3, 2]
    assert torch.equal(alone[0], noisy[[1, 3]])
    assert alone[1].task.tolist() == [0, 0]
    assert torch.equal(alone[1].text, condition.text[[1, 3]])


def test_one_call_where_one_is_enough(tiny_unet: Backbone) -> None:
    assert [c[0].shape for c in recorded(Canvas(), tiny_unet, [0, 0])] == [(2, 4, 8, 8)]
    assert [c[0].shape for c in recorded(Canvas(), tiny_unet, [2, 3, 1])] == [(3, 4, 8, 16)]


def test_starts_as_the_base_on_a_canvas(tiny_backbone: Backbone) -> None:
    base = copy.deepcopy(tiny_backbone)
    denoiser = Denoiser(tiny_backbone, OnePic(), TASKS)
    noisy, t, condition = inputs(base, MIXED)
    with torch.no_grad():
        expected = Canvas()(base.predict, noisy, t, condition)
        torch.testing.assert_close(denoiser(noisy, t, condition), expected, atol=1e-5, rtol=1e-5)
        blind = base.predict(noisy, t, condition)
    given = condition.task > 0
    torch.testing.assert_close(expected[~given], blind[~given], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected[given], blind[given], atol=1e-3)


def test_context_noised_to_the_level_of_the_target(tiny_unet: Backbone) -> None:
    diffusion = Diffusion(tiny_unet.scheduler)
    noisy, t, condition = inputs(tiny_unet, [1] * 64)
    (call,) = recorded(Canvas(diffusion), tiny_unet, [1] * 64)
    signal, level = diffusion.coefficients(t)
    noise = (call[0][..., :8] - signal * condition.source) / level
    assert abs(noise.mean()) < 0.02
    assert abs(noise.std() - 1) < 0.02
    assert torch.equal(call[0][..., 8:], noisy)
    (again,) = recorded(Canvas(diffusion), tiny_unet, [1] * 64)
    assert torch.equal(again[0], call[0])  # a function of its arguments
    assert len(noise.flatten(1).mean(1).unique()) == 64  # each sample has its own


def test_loss_over_the_whole_canvas(tiny_unet: Backbone) -> None:
    """The mean over both halves where there is a source; the target alone elsewhere, and everywhere by default."""
    diffusion = Diffusion(tiny_unet.scheduler)
    noisy, t, condition = inputs(tiny_unet, MIXED)
    target, given = torch.randn_like(noisy), condition.task > 0
    canvases = []

    def predict(packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        canvases.append(packed)
        return 0.5 * packed

    plain = (0.5 * noisy - target).pow(2).mean((1, 2, 3))  # (B,)
    for layout in (Canvas(), Canvas(diffusion)):
        torch.testing.assert_close(layout.errors(predict, noisy, t, condition, target), plain)
    canvases.clear()
    found = Canvas(diffusion, supervised=True).errors(predict, noisy, t, condition, target)
    source = canvases[0][..., :8]  # (3, C, h, w), noised
    signal, level = diffusion.coefficients(t[given])
    noise = (source - signal * condition.source[given]) / level
    of_source = (0.5 * source - diffusion.target(condition.source[given], noise, t[given])).pow(2).mean((1, 2, 3))
    torch.testing.assert_close(found[given], (plain[given] + of_source) / 2, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[~given], plain[~given])
    with pytest.raises(ValueError, match="leaves nothing to predict"):
        Canvas(supervised=True)


def test_loss_region_needs_a_noised_source() -> None:
    with pytest.raises(ValueError, match=r"method.loss_region=all: needs method.noise_context=true"):
        OnePic(loss_region="all")
    with pytest.raises(ValueError, match=r"method.loss_region='left': expected one of target, all"):
        OnePic(loss_region="left")  # type: ignore[arg-type]


def test_everything_or_low_rank(tiny_unet: Backbone) -> None:
    full = Denoiser(copy.deepcopy(tiny_unet), OnePic(train="full"), TASKS)
    lora = Denoiser(tiny_unet, OnePic(rank=2), TASKS)
    assert set(full.trained_parameters()) == {k for k, _ in full.backbone.denoiser.named_parameters()}
    assert {k.rsplit(".", 1)[1] for k in lora.trained_parameters()} == {"lora_a", "lora_b"}
    assert all(2 in p.shape for p in lora.trained_parameters().values())
    assert lora.backbone.sites("input")[0].module.weight.shape[1] == 4


def test_channels_beside_the_latent(tiny_unet: Backbone) -> None:
    """A mask that hides all or nothing is zero, so that tasks fold into pipelines of 4 and 8 channels."""
    (call,) = recorded(ChannelConcat(), tiny_unet, MIXED)
    noisy, _, condition = inputs(tiny_unet, MIXED)
    packed = call[0]
    assert packed.shape == (5, 9, 8, 8)
    assert torch.equal(packed[:, :4], noisy)
    assert torch.equal(packed[:, 4:8], condition.source)
    assert torch.equal(packed[2, 8], condition.mask[2, 0])
    assert packed[2, 8].any()
    assert not packed[[0, 1, 3, 4], 8].any()
    assert not packed[[1, 3], 4:].any()
