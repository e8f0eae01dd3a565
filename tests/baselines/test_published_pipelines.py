"""Published pipelines as our protocol runs them, on tiny random ones saved in their true format."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    StableDiffusionInpaintPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
    UniDiffuserPipeline,
)
from diffusers.pipelines.deprecated.unidiffuser import UniDiffuserModel, UniDiffuserTextDecoder
from forked import run_script
from tiny import UNET
from tiny_transformer import TINY_CLIP, TINY_VAE
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GPT2Tokenizer,
)

from baselines import published_pipelines as published
from mtdiff.backbones.latent import byte_tokenizer
from mtdiff.results.record import Result
from mtdiff.types import Batch, Example

ROOT = Path(__file__).parents[2]
SIDE = 32  # of the examples; the tiny models were "trained" at 16


def text_parts() -> dict[str, Any]:
    tokenizer = byte_tokenizer(16)
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"text_encoder": CLIPTextModel(CLIPTextConfig(**TINY_CLIP, **ids)), "tokenizer": tokenizer}


def diffusion_parts(channels: int, **unet: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    network = UNet2DConditionModel(**{**UNET, "in_channels": channels, **unet})
    return {"unet": network, "vae": AutoencoderKL(**TINY_VAE), "scheduler": DDIMScheduler(), **text_parts()}


def save_checked(kind: Any, channels: int, folder: Path) -> None:
    """Pipelines that know a safety checker."""
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind(**diffusion_parts(channels), **none).save_pretrained(folder)


def save_upscaler(folder: Path) -> None:
    parts = diffusion_parts(7, num_class_embeds=400)
    parts["vae"] = AutoencoderKL(**{**TINY_VAE, "block_out_channels": [8, 8, 16], **three_stages()})
    StableDiffusionUpscalePipeline(**parts, low_res_scheduler=DDPMScheduler(), max_noise_level=350).save_pretrained(
        folder
    )


def three_stages() -> dict[str, Any]:
    """An autoencoder that enlarges latents by 4, as the upscaler's does."""
    return {"down_block_types": ["DownEncoderBlock2D"] * 3, "up_block_types": ["UpDecoderBlock2D"] * 3}


def save_unidiffuser(folder: Path) -> None:
    torch.manual_seed(0)
    parts = text_parts()
    vision = {k: TINY_CLIP[k] for k in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")}
    words = GPT2Tokenizer(vocab={"<|endoftext|>": 0, "a": 1}, merges=[])
    decoder = UniDiffuserTextDecoder(
        16, 16, prefix_hidden_dim=16, vocab_size=2, n_positions=32, n_embd=16, n_layer=1, n_head=2
    )
    network = UniDiffuserModel(
        text_dim=16,
        clip_img_dim=16,
        num_text_tokens=16,
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        activation_fn="gelu",
        block_type="unidiffuser",
        norm_type="layer_norm",
        use_patch_pos_embed=False,
        pre_layer_norm=False,
        norm_elementwise_affine=True,
        use_data_type_embedding=True,
    )
    UniDiffuserPipeline(
        vae=AutoencoderKL(**TINY_VAE),
        text_encoder=parts["text_encoder"],
        image_encoder=CLIPVisionModelWithProjection(
            CLIPVisionConfig(**vision, image_size=16, patch_size=8, projection_dim=16)
        ),
        clip_image_processor=CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        clip_tokenizer=parts["tokenizer"],
        text_decoder=decoder,
        text_tokenizer=words,
        unet=network,
        scheduler=DDIMScheduler(),
    ).save_pretrained(folder, safe_serialization=False)  # as published; its tied weights cannot be safetensors


SAVE: dict[str, Callable[[Path], None]] = {
    "InstructPix2Pix": lambda folder: save_checked(StableDiffusionInstructPix2PixPipeline, 8, folder),
    "Inpainting": lambda folder: save_checked(StableDiffusionInpaintPipeline, 9, folder),
    "TextToImage": lambda folder: save_checked(StableDiffusionPipeline, 4, folder),
    "UpscalerX4": save_upscaler,
    "UniDiffuser": save_unidiffuser,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny pipeline, written when first asked for."""
    root = tmp_path_factory.mktemp("pipelines")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            SAVE[name](root / name)
        return root / name

    return folder


def examples(n: int = 3) -> Batch:
    """Sources with a hole in the upper half."""
    rng = torch.Generator().manual_seed(0)
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, : SIDE // 2] = 1

    def one(i: int) -> Example:
        target = torch.rand(3, SIDE, SIDE, generator=rng) * 2 - 1
        return Example(target, target * (1 - mask), mask, "a picture", 0, f"example {i}")

    return Batch.collate([one(i) for i in range(n)])


@pytest.mark.parametrize("name", SAVE)
def test_draws_pictures_of_the_examples_size(name: str, saved: Callable[[str], Path]) -> None:
    model = getattr(published, name)(str(saved(name)), steps=2)
    batch = examples()
    drawn = model.draw(batch, seed=0)
    assert drawn.shape == batch.target.shape
    assert drawn.isfinite().all()
    assert -1 <= drawn.min() < -0.05 < 0.05 < drawn.max() <= 1
    torch.testing.assert_close(model.draw(batch, seed=0), drawn)
    assert (model.draw(batch, seed=1) - drawn).abs().max() > 1e-3
    alone = model.draw(batch.rows(torch.tensor([False, True, False])), seed=0)  # noise belongs to the example
    torch.testing.assert_close(alone[0], drawn[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("name", "reads"), [("InstructPix2Pix", True), ("UpscalerX4", True), ("TextToImage", False)])
def test_what_is_read_of_an_example(name: str, reads: bool, saved: Callable[[str], Path]) -> None:
    model = getattr(published, name)(str(saved(name)), steps=2)
    batch = examples()
    other = replace(batch, source=-batch.source)
    assert ((model.draw(other, 0) - model.draw(batch, 0)).abs().max() > 1e-3) == reads


def test_inpainting_keeps_what_it_was_given(saved: Callable[[str], Path]) -> None:
    """At the model's own size the known half is near its autoencoder's rendering; the hole does not matter to it."""
    model = published.Inpainting(str(saved("Inpainting")), steps=2, size=SIDE)
    batch = examples()
    filled = replace(batch, source=batch.source + batch.mask * 0.7)
    torch.testing.assert_close(model.draw(filled, 0), model.draw(batch, 0), rtol=1e-3, atol=1e-3)
    less = replace(batch, mask=torch.zeros_like(batch.mask))
    assert (model.draw(less, 0) - model.draw(batch, 0)).abs().max() > 1e-3


def test_folders_that_hold_something_else_are_named(saved: Callable[[str], Path], tmp_path: Path) -> None:
    for options, expected in (
        ({"weights": str(tmp_path)}, r"published\.weights=.*could be read there"),
        ({"weights": str(saved("TextToImage")), "size": 12}, r"published\.size=12: expected a multiple of 8"),
        ({"weights": str(saved("TextToImage")), "steps": 0}, r"published\.steps=0"),
    ):
        with pytest.raises(ValueError, match=expected) as raised:
            published.TextToImage(**options)  # type: ignore[arg-type]
        assert "\n" not in str(raised.value)


# experiments/published.py


def run(*arguments: str, code: int = 0) -> str:
    done = run_script("experiments/published.py", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_script_writes_a_result_of_the_common_schema(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    few = ["evaluation.per_task=3", "evaluation.batch_size=2", "published.steps=1", "published.scale=4"]
    given = ["pipeline=upscaler_x4", f"published.weights={saved('UpscalerX4')}", f"run_dir={folder}"]
    said = run(*given, *few)
    result = Result.load(folder / "result.json")
    assert (result.method, result.backbone, result.data) == ("upscaler_x4", "UpscalerX4", "emoji")
    assert (result.tasks, result.status, result.steps) == (["super_resolution"], "complete", 0)
    assert [(r.metric, r.n) for r in result.rows] == [("lpips_alex", 3), ("psnr", 3), ("ssim", 3)]
    assert result.params["total"] == sum(
        p.numel() for p in UNet2DConditionModel.from_pretrained(saved("UpscalerX4"), subfolder="unet").parameters()
    )
    assert result.cost["flops"] is None
    assert result.config["published"]["steps"] == 1
    assert not {"method", "backbone", "training"} & set(result.config)
    assert (folder / "samples" / "super_resolution.png").exists()
    assert "lpips_alex" in said
    assert "holds a result.json already" in run(*given, *few, code=2)
    assert json.loads((folder / "result.json").read_text())["versions"]["diffusers"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pipeline=pix2pix"], "pipeline=pix2pix: expected one of inpainting, instruct_pix2pix"),
        (["published.steps=3"], "pipeline=: expected one of"),
        (["pipeline=inpainting", "published.step=3"], "published.step"),
        (["pipeline=inpainting", "device=tpu"], "device=tpu: expected one of cpu, cuda"),
    ],
)
def test_script_answers_mistakes_in_one_line(arguments: list[str], expected: str) -> None:
    said = run(*arguments, code=2)
    assert len(said.splitlines()) == 1
    assert expected in said
