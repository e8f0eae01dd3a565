"""The shipped base model: loads into diffusers unchanged, and MTU starts as it on every task."""

from pathlib import Path

import pytest
import torch
from base_model.autoencoder import measure_floor
from base_model.judge import find_own_picture
from base_model.records import stack_records
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel

from mtdiff.backbones.stable_diffusion import load, shipped_folder
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.methods.mtu import MTU
from mtdiff.methods.untouched import Untouched
from mtdiff.metrics.alexnet import AlexNetEmbedding
from mtdiff.metrics.embedding import MeasuringClip, shipped_clip
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Condition

MIB = 2**20


def portraits(split: str, number: int) -> tuple[torch.Tensor, list[str]]:
    source = EmojiSource()
    chosen = source.portraits(split)  # type: ignore[arg-type]
    chosen = chosen[:: len(chosen) // number][:number]
    records = [source.portrait(p.style, p.stem) for p in chosen]
    return stack_records(records)


def test_sizes_are_within_the_budget() -> None:
    files = [p for p in shipped_folder().rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 24 * MIB
    assert max(p.stat().st_size for p in files) <= 16 * MIB
    assert not [p for p in files if p.suffix in (".bin", ".pt", ".pkl", ".ckpt")]


def test_diffusers_pipeline_draws_the_emoji_it_is_asked_for() -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(shipped_folder())
    pipeline.set_progress_bar_config(disable=True)
    truth, captions = portraits("train", 16)
    noise = torch.Generator().manual_seed(0)
    out = pipeline(captions, num_inference_steps=15, guidance_scale=3.0, generator=noise, output_type="pt").images
    assert out.shape == (16, 3, 64, 64)
    # Chance is 1 in 16; the model card's figure is among 200.
    assert find_own_picture(out * 2 - 1, truth, AlexNetEmbedding(pool=False)).double().mean() >= 0.6


@torch.no_grad()
def test_autoencoder_on_test_emoji() -> None:
    images, _ = portraits("test", 64)
    assert measure_floor(load().vae, images)["psnr_db"] >= 30


def test_measuring_clip_knows_unseen_emoji() -> None:
    images, captions = portraits("test", 50)
    clip = MeasuringClip(shipped_clip())
    similarity = clip.images(images) @ clip.texts(captions).T
    assert (similarity.argmax(1) == torch.arange(50)).float().mean() >= 0.6
    assert isinstance(CLIPModel.from_pretrained(shipped_clip()), CLIPModel)


@torch.no_grad()
@pytest.mark.parametrize("experts", [1, 4])
def test_mtu_starts_as_the_base_on_every_task(experts: int) -> None:
    tasks = ("text_to_image", "edit", "super_resolution", "inpaint")
    base, adapted = Denoiser(load(), Untouched(), tasks), Denoiser(load(), MTU(experts=experts), tasks)
    rng = torch.Generator().manual_seed(0)
    noisy, source = (torch.randn(4, *base.backbone.latent_shape, generator=rng) for _ in range(2))
    text = base.backbone.embed(["noto, grinning face", "make it a woman", "", "remove the red apple"])
    condition = Condition(source, torch.zeros_like(source[:, :1]), text.tokens, torch.arange(4))
    t = torch.tensor([999, 600, 300, 1])
    torch.testing.assert_close(adapted(noisy, t, condition), base(noisy, t, condition), atol=1e-5, rtol=1e-5)


def test_the_library_never_imports_the_baselines() -> None:
    root = Path(shipped_folder()).parents[1]
    for path in root.rglob("*.py"):
        assert "baselines" not in [
            w for line in path.read_text().splitlines() if "import" in line for w in line.split()
        ]
