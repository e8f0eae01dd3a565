"""The painter on tiny networks: batches that mix tasks, its settings, and what it needs to be imported."""

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler
from tiny import TASKS, tiny_unet
from tiny_fits import batch

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter, first_noise
from mtdiff.model.sampling import SAMPLERS, Guidance, Known, guide, make_scheduler, sample
from mtdiff.types import Condition, Text

GUIDANCE = {"edit": Guidance(1.5, 3), "text_to_image": Guidance(1, 3)}


def painter() -> Painter:
    torch.manual_seed(0)
    denoiser = Denoiser(tiny_unet(), MTU(experts=2), TASKS)
    return Painter(denoiser=denoiser, guidance=GUIDANCE, sampler="ddim", steps=2)


def test_a_batch_mixes_tasks_and_its_pictures_follow_a_permutation() -> None:
    made, four, order = painter(), batch(), [2, 0, 3, 1]
    noise = first_noise(four, made.denoiser.backbone.latent_shape, 3)
    shuffled = replace(
        four,
        target=four.target[order],
        source=four.source[order],
        mask=four.mask[order],
        task=four.task[order],
        prompt=[four.prompt[i] for i in order],
    )
    drawn = made.draw(four, noise)
    assert drawn.shape == four.target.shape
    torch.testing.assert_close(made.draw(shuffled, noise[order]), drawn[order], atol=1e-5, rtol=1e-5)


def test_steps_and_the_guidance_of_a_task_change_what_is_drawn() -> None:
    made, four = painter(), batch()
    noise = first_noise(four, made.denoiser.backbone.latent_shape, 0)
    drawn = made.draw(four, noise)
    assert not torch.allclose(replace(made, steps=3).draw(four, noise), drawn, atol=1e-4)
    unguided = replace(made, guidance={}).draw(four, noise)
    apart = (unguided - drawn).flatten(1).abs().amax(1) > 1e-4
    assert apart.tolist() == [task in GUIDANCE for task in TASKS]


def test_noise_is_a_function_of_seed_and_key_alone() -> None:
    four, shape = batch(), (4, 8, 8)
    noise = first_noise(four, shape, 0)
    assert torch.equal(first_noise(four.rows(torch.tensor([False, False, True, False])), shape, 0)[0], noise[2])
    assert not torch.equal(first_noise(four, shape, 1), noise)


def test_drawing_imports_neither_training_nor_metrics() -> None:
    """The shipped run loads and draws in a process of its own."""
    program = """
import sys
import mtdiff
from dataclasses import replace
model = mtdiff.load_run("mtu-nano")
model.painter = replace(model.painter, steps=1)
model("text_to_image", "noto, crab")
unwanted = ("lightning", "torchmetrics", "mtdiff.training", "mtdiff.metrics")
print([name for name in unwanted if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_known_pixels_stay_and_answers_without_a_hole_keep_their_bits() -> None:
    made, four = painter(), batch()
    four.mask[2, :, 4:12, 4:12] = 1  # one sample is known around a hole
    noise = first_noise(four, made.denoiser.backbone.latent_shape, 0)
    kept, free = made.draw(four, noise), replace(made, keep_known=False).draw(four, noise)
    known = (four.mask[2] == 0).expand(3, -1, -1)
    assert torch.equal(kept[2][known], four.source[2][known])
    assert not torch.allclose(kept[2][~known], free[2][~known], atol=1e-4), "the hole is drawn to fit what is known"
    assert not torch.allclose(free[2][known], four.source[2][known], atol=1e-2)
    assert torch.equal(kept[[0, 1, 3]], free[[0, 1, 3]])


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_known_latents_are_held_on_their_way(name: str, steps: int) -> None:
    """The denoiser sees, at every time, the known cells at that time's noise; at the end they are what they are."""
    rng = torch.Generator().manual_seed(0)
    source, noise, empty = (torch.randn(2, 4, 4, 4, generator=rng) for _ in range(3))
    mask = torch.zeros(2, 1, 4, 4)
    mask[0, :, 1:3, 1:3] = 1
    condition = Condition(source, mask, torch.zeros(2, 5, 3), torch.zeros(2, dtype=torch.long))
    scheduler = make_scheduler(name, DDIMScheduler(clip_sample=False))
    diffusion, seen = Diffusion(scheduler), []

    def denoise(x: torch.Tensor, t: torch.Tensor, c: Condition) -> torch.Tensor:
        seen.append((x, t))
        return 0.1 * x + empty

    guided = guide(condition, Text(torch.zeros(1, 5, 3)), [Guidance()] * 2)
    out = sample(denoise, scheduler, guided, noise, steps, Known.of(condition))
    known = (mask[0] == 0).expand(4, -1, -1)
    assert torch.equal(out[0][known], source[0][known])
    for x, t in seen[1:]:
        torch.testing.assert_close(x[0][known], diffusion.noisy(source, noise, t)[0][known])
    assert torch.equal(out[1], sample(denoise, scheduler, guided, noise, steps)[1])
