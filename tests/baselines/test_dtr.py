"""DTR's masks against the published rule, and where they act."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import TASKS, inputs
from torch import Tensor, nn

from baselines.dtr import DTR, Masked
from mtdiff.backbones.base import Backbone, Site
from mtdiff.methods.routing import Routing
from mtdiff.model.denoiser import Denoiser

STEPS = 1000


def published(channels: int, alpha: float = 4, beta: float = 0.8) -> np.ndarray:
    """(1000, C) table of the paper's windows as its authors compute them, written from their description."""
    kept = int(channels * beta)
    first = np.rint(np.power(np.linspace(0.0, 1.0, STEPS), alpha) * (channels - kept)).astype(int)
    return np.stack([(np.arange(channels) >= f) & (np.arange(channels) < f + kept) for f in first])


def masked(method: DTR, channels: int, number: int = 0, branch: bool = True, flow: bool = False) -> Masked:
    holder = nn.ModuleList([nn.Linear(channels, channels)])
    by_time, by_task, width = method.places(channels, STEPS, 4)
    site = Site("block", holder, "0", channels, branch=branch)
    return Masked(site, by_time, by_task, width, Routing(), flow, number if method.random else None)


def table(layer: Masked, task: int = 0) -> Tensor:
    return layer.mask(torch.full((STEPS,), task), torch.arange(STEPS))


@pytest.mark.parametrize("channels", [320, 640, 1152, 1280])
def test_masks_equal_the_published_rule(channels: int) -> None:
    assert np.array_equal(table(masked(DTR(), channels)).numpy(), published(channels))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.5), (2.0, 0.9), (4.0, 1.0)])
def test_masks_follow_alpha_and_beta(alpha: float, beta: float) -> None:
    assert np.array_equal(table(masked(DTR(alpha=alpha, beta=beta), 96)).numpy(), published(96, alpha, beta))


def test_windows_slide_from_the_first_to_the_last_channels() -> None:
    m = table(masked(DTR(), 320))
    assert m.sum(1).unique().tolist() == [256]
    assert m[0, :256].all()
    assert m[-1, -256:].all()


def test_windows_by_task() -> None:
    layer = masked(DTR(routing="task"), 320)
    m = layer.mask(torch.arange(4), torch.tensor([0, 999, 5, 7]))
    first = m.int().argmax(1).tolist()
    assert first == [0, 21, 43, 64]  # 64 channels of room in three steps
    assert m.sum(1).tolist() == [256] * 4


def test_windows_by_task_and_timestep_nest() -> None:
    outer, inner = masked(DTR(routing="task"), 320), masked(DTR(routing="task_timestep"), 320)
    for task in range(4):
        m, within = table(inner, task), table(outer, task)
        assert m.sum(1).unique().tolist() == [int(0.8 * 256)]
        assert not (m & ~within).any()
        assert len(m.unique(dim=0)) > 1
    assert not torch.equal(table(inner, 0), table(inner, 3))


def test_random_masks_are_fixed_full_and_each_block_has_its_own() -> None:
    a, b = (masked(DTR(random=True), 320, number) for number in (0, 1))
    m = table(a)
    assert m.sum(1).unique().tolist() == [256]
    assert torch.equal(m, table(a, task=3))
    assert len(m.unique(dim=0)) == STEPS
    overlap = (m & table(b)).float().mean()
    assert abs(overlap - 0.8**2) < 0.005  # as independent draws have
    assert (m.float().mean(0) - 0.8).abs().max() < 0.06  # no favoured channel: 4.7 standard deviations
    neighbours = (m[1:] & m[:-1]).float().mean()
    assert abs(neighbours - 0.8**2) < 0.005


def test_random_masks_by_task() -> None:
    layer = masked(DTR(routing="task", random=True), 320)
    assert len(layer.mask(torch.arange(4), torch.zeros(4)).unique(dim=0)) == 4
    assert len(table(layer).unique(dim=0)) == 1


def test_real_times_of_a_flow() -> None:
    layer = masked(DTR(), 320, flow=True)
    t = torch.tensor([0.0, 0.3, 1.0, 1.2, 999.4, 1000.0])
    steps = torch.tensor([0, 0, 0, 1, 999, 999])
    expected = masked(DTR(), 320).mask(torch.zeros(6, dtype=torch.long), steps)
    assert torch.equal(layer.mask(torch.zeros(6, dtype=torch.long), t), expected)


def test_the_residual_path_is_never_masked() -> None:
    """z + Block(m z) where the block opens a branch; z (1 - m) + Block(m z) where it carries its own shortcut."""
    z, task, t = torch.randn(2, 5, 20), torch.tensor([0, 1]), torch.tensor([0, 999])
    for branch in (True, False):
        layer = masked(DTR(), 20, branch=branch)
        layer.routing.write(task, t)
        m = layer.mask(task, t)[:, None].float()
        expected = layer.block(m * z) + (0 if branch else z * (1 - m))
        torch.testing.assert_close(layer(z), expected)


def test_masks_every_block_of_a_backbone_and_adds_no_parameter(tiny_backbone: Backbone) -> None:
    names = {s.name for s in tiny_backbone.sites("block")}
    before = sum(p.numel() for p in tiny_backbone.denoiser.parameters())
    denoiser = Denoiser(tiny_backbone, DTR(), TASKS[:1])
    found = {k for k, m in tiny_backbone.denoiser.named_modules() if isinstance(m, Masked)}
    assert found == names
    conv = tiny_backbone.sites("input")[0].module.weight
    extra = conv[:, :, :5].numel()
    assert sum(p.numel() for p in tiny_backbone.denoiser.parameters()) == before + extra
    idle = tuple(f"{name}." for name in tiny_backbone.idle())
    assert set(denoiser.trained_parameters()) == {
        k for k, _ in tiny_backbone.denoiser.named_parameters() if not k.startswith(idle)
    }


def test_the_time_of_a_sample_chooses_its_mask(tiny_unet: Backbone) -> None:
    """With beta = 1 nothing is masked, whatever the time; with less the prediction changes."""
    import copy

    noisy, t, condition = inputs(tiny_unet, [0, 0])
    whole = Denoiser(copy.deepcopy(tiny_unet), DTR(beta=1.0), TASKS)
    part = Denoiser(copy.deepcopy(tiny_unet), DTR(), TASKS)
    with torch.no_grad():
        torch.testing.assert_close(
            whole(noisy, t, condition), tiny_unet.predict(noisy, t, condition), atol=1e-5, rtol=1e-5
        )
        assert not torch.allclose(part(noisy, t, condition), whole(noisy, t, condition), atol=1e-3)


def test_takes_a_flow_schedule(tiny_unet: Backbone) -> None:
    tiny_unet.scheduler = FlowMatchEulerDiscreteScheduler()
    denoiser = Denoiser(tiny_unet, DTR(), TASKS)
    noisy, _, condition = inputs(tiny_unet, [0, 1])
    assert torch.isfinite(denoiser(noisy, torch.tensor([0.4, 1000.0]), condition)).all()
