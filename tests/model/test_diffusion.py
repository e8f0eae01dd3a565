"""Noise, targets and guided sampling against diffusers."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchEulerDiscreteScheduler

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.model.sampling import SAMPLERS, Guidance, guide, make_scheduler, sample, set_times
from mtdiff.types import Condition, Text


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(6, 4, 8, 8, generator=g), torch.randn(6, 4, 8, 8, generator=g)


@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_and_velocity_equal_diffusers(zero_snr: bool) -> None:
    scheduler = DDPMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=zero_snr)
    latent, noise = pair()
    t = torch.tensor([0, 1, 250, 500, 998, 999])
    ours = Diffusion(scheduler)
    torch.testing.assert_close(ours.noisy(latent, noise, t), scheduler.add_noise(latent, noise, t), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        ours.target(latent, noise, t), scheduler.get_velocity(latent, noise, t), atol=1e-5, rtol=0
    )


def test_epsilon_target_is_the_noise() -> None:
    latent, noise = pair()
    assert torch.equal(Diffusion(DDIMScheduler()).target(latent, noise, torch.zeros(6, dtype=torch.long)), noise)


def test_flow_is_a_straight_line_whose_target_is_its_slope() -> None:
    ours = Diffusion(FlowMatchEulerDiscreteScheduler())
    latent, noise = pair()
    t = ours.times(6, torch.Generator().manual_seed(0))
    assert ((t > 0) & (t <= 1000)).all()
    x, slope = ours.noisy(latent, noise, t), ours.target(latent, noise, t)
    torch.testing.assert_close(x - (t / 1000).view(-1, 1, 1, 1) * slope, latent)


def test_shifted_times_of_a_flow_are_diffusers_shifted_sigmas() -> None:
    """Of the same draws; diffusers has them at a thousand times, between which they are interpolated."""
    plain, shifted = FlowMatchEulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler(shift=3.0)
    uniform, noisier = (Diffusion(plain).times(500, torch.Generator().manual_seed(1), s) for s in (1.0, 3.0))
    expected = np.interp(uniform / 1000, plain.sigmas.flip(0), shifted.sigmas.flip(0))
    inside = uniform >= 1
    assert inside.sum() > 490
    np.testing.assert_allclose((noisier / 1000)[inside], expected[inside], atol=1e-5)


def test_shifted_times_of_a_schedule_are_whole_numbers_of_that_distribution() -> None:
    ours = Diffusion(DDIMScheduler())
    drawn = {s: ours.times(40_000, torch.Generator().manual_seed(0), s) for s in (0.5, 1.0, 3.0)}
    for shift, t in drawn.items():
        assert t.dtype == torch.long
        assert (t.min() < 10, t.max() > 990) == (True, True)
        assert ((t >= 0) & (t < 1000)).all()
        for edge in (250, 500, 750):  # t / T < x where u < x / (s - (s - 1) x)
            below = edge / 1000 / (shift - (shift - 1) * edge / 1000)
            assert (t < edge).float().mean().item() == pytest.approx(below, abs=0.01)  # 4 standard errors
    assert torch.equal(drawn[1.0], torch.randint(1000, (40_000,), generator=torch.Generator().manual_seed(0)))


def test_unknown_prediction_type_is_named() -> None:
    with pytest.raises(ValueError, match="prediction_type='sample'"):
        Diffusion(DDIMScheduler(prediction_type="sample"))


def condition(n: int = 4) -> Condition:
    g = torch.Generator().manual_seed(1)
    source, mask = torch.randn(n, 4, 8, 8, generator=g), torch.zeros(n, 1, 8, 8)
    return Condition(source, mask, torch.randn(n, 5, 3, generator=g), torch.arange(n))


def reads_everything(x: torch.Tensor, t: torch.Tensor, c: Condition) -> torch.Tensor:
    """A stand-in denoiser in which source, mask, text and task all leave a mark."""
    mark = c.source.mean((1, 2, 3)) + 2 * c.mask.mean((1, 2, 3)) + 3 * c.text.mean((1, 2)) + 0.1 * c.task
    return 0.5 * x + mark.view(-1, 1, 1, 1)


def test_double_guidance_is_equation_3() -> None:
    c, empty, x, t = condition(), Text(torch.zeros(1, 5, 3)), pair()[0][:4], torch.tensor(7)
    scales = [Guidance(1.6, 7.5), Guidance(1, 7.5), Guidance(1, 1), Guidance(1.5, 4)]
    guided = guide(c, empty, scales)
    nothing = Condition(torch.zeros_like(c.source), torch.ones_like(c.mask), torch.zeros_like(c.text), c.task)
    image = Condition(c.source, c.mask, torch.zeros_like(c.text), c.task)
    e0, e1, e2 = (reads_everything(x, t, k) for k in (nothing, image, c))
    s_i = torch.tensor([s.image for s in scales]).view(-1, 1, 1, 1)
    s_t = torch.tensor([s.text for s in scales]).view(-1, 1, 1, 1)
    expected = e0 + s_i * (e1 - e0) + s_t * (e2 - e1)
    torch.testing.assert_close(guided(reads_everything, x, t), expected, atol=1e-5, rtol=1e-5)
    assert len(guided.sample) == 3 + 2 + 1 + 3  # what has weight zero is not computed


def test_task_ids_travel_with_their_samples() -> None:
    c, empty, noise = condition(), Text(torch.zeros(1, 5, 3)), pair()[0][:4]
    scales, order = [Guidance(1.5, 3)] * 4, torch.tensor([2, 0, 3, 1])

    def draw(c: Condition, noise: torch.Tensor) -> torch.Tensor:
        return sample(reads_everything, make_scheduler("ddim", DDIMScheduler()), guide(c, empty, scales), noise, 4)

    torch.testing.assert_close(draw(c[order], noise[order]), draw(c, noise)[order])


@pytest.mark.parametrize(("name", "steps"), [("ddim", 50), ("dpm++", 20)])
def test_samplers_find_a_gaussian_mean(name: str, steps: int) -> None:
    """For data that are one point m, the exact noise prediction leads every sampler to m."""
    base = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
    m = torch.linspace(-1, 1, 4).view(1, 4, 1, 1)
    alphas = base.alphas_cumprod

    def exact(x: torch.Tensor, t: torch.Tensor, c: Condition) -> torch.Tensor:
        a = alphas[t].view(-1, 1, 1, 1)
        return (x - a.sqrt() * m) / (1 - a).sqrt()

    guided = guide(condition(), Text(torch.zeros(1, 5, 3)), [Guidance()] * 4)
    out = sample(exact, make_scheduler(name, base), guided, pair()[0][:4], steps)
    torch.testing.assert_close(out, m.expand_as(out), atol=0.05, rtol=0)


def test_unknown_sampler_is_named() -> None:
    with pytest.raises(ValueError, match=r"sampling.sampler='euler'.*ddim, dpm\+\+"):
        make_scheduler("euler", DDIMScheduler())


SCHEDULES = {
    f"{spacing}, offset {offset}, {kind}": {"timestep_spacing": spacing, "steps_offset": offset, **options}
    for spacing in ("leading", "linspace", "trailing")
    for offset in (0, 1)
    for kind, options in {
        "epsilon": {"prediction_type": "epsilon"},
        "v": {"prediction_type": "v_prediction"},
        "zero terminal SNR": {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        "alpha to one": {"prediction_type": "epsilon", "set_alpha_to_one": True},
    }.items()
}
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}
STEPS = (1, 2, 3, 61, 999, 1000)


ONE = Condition(torch.zeros(1, 2, 2, 2), torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 1), torch.zeros(1).long())
GUIDED = guide(ONE, Text(torch.zeros(1, 1, 1)), [Guidance()])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name.endswith("epsilon")])
def test_every_number_of_steps_has_times(schedule: str, name: str) -> None:
    """As many as steps, each within the schedule, and falling."""
    scheduler = make_scheduler(name, DDIMScheduler(**BETAS, **SCHEDULES[schedule]))
    for steps in range(1, 1001):
        set_times(scheduler, steps, torch.device("cpu"))
        times = scheduler.timesteps
        assert len(times) == steps
        assert 0 <= times[-1] <= times[0] < 1000
        assert steps == 1 or (times.diff() < 0).all()


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_draws_in_any_number_of_steps(schedule: str, name: str) -> None:
    base = DDIMScheduler(**BETAS, **SCHEDULES[schedule])
    for steps in STEPS:
        drawn = sample(lambda x, t, c: 0.1 * x, make_scheduler(name, base), GUIDED, torch.randn(1, 2, 2, 2), steps)
        assert drawn.isfinite().all(), steps


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_every_number_of_steps_of_a_flow_draws(shift: float) -> None:
    base = FlowMatchEulerDiscreteScheduler(shift=shift)
    for steps in STEPS:
        drawn = sample(lambda x, t, c: 0.1 * x, make_scheduler("ddim", base), GUIDED, torch.randn(1, 2, 2, 2), steps)
        assert drawn.isfinite().all(), steps
