"""Backbones at true size on shapes alone, and tiny ones with values: text, prediction, sites, loading, building."""

import itertools
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import (
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from huggingface_hub import constants
from tiny import TASKS, UNET, inputs, tiny_unet
from tiny_families import FAMILIES, sdxl_parts, tiny_sdxl
from tiny_joint import joint_architecture, label_architecture, tiny_joint, tiny_label
from tiny_transformer import (
    TINY_CLIP,
    architecture,
    tiny_transformer,
)
from torch import Tensor, nn

from baselines.finetune import Finetune
from mtdiff.backbones import dit, label_dit, sd3, sdxl, stable_diffusion
from mtdiff.backbones.base import Backbone
from mtdiff.backbones.latent import byte_tokenizer
from mtdiff.config.schema import check
from mtdiff.methods.mtu import MTU
from mtdiff.model.conditioning import encode_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.sampling import Guidance, guide
from mtdiff.types import Batch

CONFIGS = Path(__file__).parents[2] / "experiments" / "configs" / "backbone"
TRUE = {  # parameters of the denoiser, feed-forward layers, their parameters in millions, latent, text
    "sd15": (859_520_964, 16, 148.8, (4, 64, 64), (1, 77, 768)),
    "sdxl": (2_567_463_684, 70, 1229.5, (4, 64, 64), (1, 77, 2048)),
    "pixart": (610_856_096, 28, 297.4, (4, 64, 64), (1, 300, 4096)),
    "sd3": (2_028_328_000, 47, 887.5, (16, 64, 64), (1, 77 + 256, 4096)),
    "dit": (749_826_464, 28, 297.4, (4, 32, 32), (1, 1, 1)),  # diffusers keeps an embedding of time and class a block
}
LOADERS = {
    "mtdiff.backbones.stable_diffusion.load": stable_diffusion.load,
    "mtdiff.backbones.sdxl.load": sdxl.load,
    "mtdiff.backbones.dit.load": dit.load,
    "mtdiff.backbones.sd3.load": sd3.load,
    "mtdiff.backbones.label_dit.load": label_dit.load,
}
PROMPTS = ["a red cat", "", "a dog and a house, seen from far away"]


def pipeline(backbone: Any) -> Any:
    """The same parts in diffusers' own pipeline."""
    b = backbone
    if isinstance(b, label_dit.LabelDiT):
        return DiTPipeline(transformer=b.denoiser, vae=b.vae, scheduler=b.scheduler)
    parts = {"vae": b.vae, "scheduler": b.scheduler, "text_encoder": b.text_encoder, "tokenizer": b.tokenizer}
    if isinstance(b, dit.PixArt):
        return PixArtSigmaPipeline(transformer=b.denoiser, **parts)
    if isinstance(b, sdxl.StableDiffusionXL):
        second = {"text_encoder_2": b.text_encoder_2, "tokenizer_2": b.tokenizer_2}
        return StableDiffusionXLPipeline(unet=b.denoiser, **second, **parts)
    if isinstance(b, sd3.StableDiffusion3):
        more = {k: getattr(b, k) for k in ("text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")}
        return StableDiffusion3Pipeline(transformer=b.denoiser, **more, **parts)
    none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return StableDiffusionPipeline(unet=b.denoiser, **none, **parts)


def state(backbone: Backbone) -> dict[str, Tensor]:
    return backbone.state_dict()


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def said(error: pytest.ExceptionInfo[BaseException]) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1
    return text


# True sizes


@pytest.mark.parametrize("name", TRUE)
def test_true_size_on_shapes_alone(name: str) -> None:
    parameters, layers, millions, latent, text = TRUE[name]
    given = dict(yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())["backbone"])
    backbone = LOADERS[given.pop("_target_")](**{**given, "weights": "meta"})
    assert sum(p.numel() for p in backbone.denoiser.parameters()) == parameters
    assert all(p.is_meta for p in backbone.parameters())
    sites = backbone.sites("ffn")
    assert len(sites) == layers
    assert round(sum(p.numel() for s in sites for p in s.module.parameters()) / 1e6, 1) == millions
    assert backbone.latent_shape == latent
    assert backbone.embed(["a cat"]).tokens.shape == text
    assert backbone.scheduler.config.get("prediction_type", "flow") == ("flow" if name == "sd3" else "epsilon")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_yaml_names_what_exists(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert path.read_text().startswith("# @package _global_\n")
    check(content)
    assert set(content) == {"backbone", "sampling"}
    assert set(content["sampling"]["guidance"]) == set(TASKS)
    for scales in content["sampling"]["guidance"].values():
        Guidance(**scales)
    weights = content["backbone"]["weights"]
    assert "/" not in weights or len(content["backbone"]["revision"]) == 40  # hub weights are pinned


def test_shipped_model() -> None:
    given = dict(yaml.safe_load((CONFIGS / "nano.yaml").read_text())["backbone"])
    backbone = LOADERS[given.pop("_target_")](**given)
    assert {p.dtype for p in backbone.parameters()} == {torch.float32}
    assert backbone.encode(torch.zeros(1, 3, 64, 64)).shape == (1, *backbone.latent_shape)
    text = backbone.embed(["a red heart", "a red heart", "clown"]).tokens
    assert torch.equal(text[0], text[1])
    assert (text[0] - text[2]).abs().max() > 0.1
    shapes = stable_diffusion.load("meta").state_dict()
    assert {k: v.shape for k, v in backbone.state_dict().items()} == {k: v.shape for k, v in shapes.items()}


# Text, as diffusers' own pipelines encode it


def test_text_of_stable_diffusion() -> None:
    backbone = tiny_unet()
    expected, _ = pipeline(backbone).encode_prompt(PROMPTS, "cpu", 1, False)
    assert torch.allclose(backbone.embed(PROMPTS).tokens, expected, atol=1e-6)


def test_text_of_sdxl() -> None:
    backbone = tiny_sdxl()
    pipe = pipeline(backbone)
    text = backbone.embed(PROMPTS)
    tokens, _, pooled, _ = pipe.encode_prompt(PROMPTS, device="cpu", do_classifier_free_guidance=False)
    for k in (0, 2):
        assert torch.allclose(text.tokens[k], tokens[k], atol=1e-6)
        assert torch.allclose(text.extra["text_embeds"][k], pooled[k], atol=1e-6)
    assert text.tokens[1].abs().max() == 0 == text.extra["text_embeds"][1].abs().max()
    ids = pipe._get_add_time_ids((16, 16), (0, 0), (16, 16), torch.float32, 24)
    _, _, condition = inputs(backbone, [0, 1, 2])
    assert torch.equal(backbone.time_ids(condition), ids.repeat(3, 1))
    backbone.zero_empty_prompt = False
    assert torch.allclose(backbone.embed(PROMPTS).tokens, tokens, atol=1e-6)


def test_text_of_pixart() -> None:
    backbone = tiny_transformer()
    text = backbone.embed(PROMPTS)
    tokens, mask, _, _ = pipeline(backbone).encode_prompt(PROMPTS, False, device="cpu", max_sequence_length=16)
    assert torch.allclose(text.tokens, tokens, atol=1e-6)
    assert torch.equal(text.extra["text_mask"], mask)
    assert mask.sum(1).tolist() == [2 + len("aredcat"), 2, 16]


@pytest.mark.parametrize("prompt", ["Größe 猫 \U0001f600", "x" * 99, "", "it's 3 o'clock!"])
def test_byte_tokenizer_knows_every_text(prompt: str) -> None:
    tokenizer = byte_tokenizer(16)
    ids = tokenizer(prompt, padding="max_length", max_length=16, truncation=True).input_ids
    assert len(ids) == 16
    assert ids[0] == tokenizer.bos_token_id
    whole = tokenizer(prompt).input_ids
    assert max(whole) < len(tokenizer) == 514
    assert whole.count(tokenizer.eos_token_id) == 1  # also the sign of an unknown token
    letters = "".join(prompt.lower().split())
    assert len(whole) - 2 == len(letters.encode())


@pytest.mark.parametrize("t5", [False, True])
def test_text_of_stable_diffusion_3(t5: bool) -> None:
    backbone: Any = tiny_joint(t5=t5)
    expected, _, pooled, _ = pipeline(backbone).encode_prompt(
        PROMPTS, None, None, "cpu", do_classifier_free_guidance=False, max_sequence_length=4
    )
    found = backbone.embed(PROMPTS)
    assert found.tokens.shape == (3, 16 + 4, 40)
    assert torch.allclose(found.tokens, expected, atol=1e-6)
    assert torch.allclose(found.extra["pooled"], pooled, atol=1e-6)
    assert bool(found.tokens[:, 16:].any()) == t5


def test_classes_by_name_by_number_and_by_hash(tmp_path: Path) -> None:
    pipeline(tiny_label()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["id2label"] = {"3": "tench, Tinca tinca", "7": "great white shark"}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    backbone = label_dit.load(str(tmp_path), size=16)
    named = ["Tinca tinca", "great white shark", "5", ""]
    assert backbone.embed(named).extra["label"].tolist() == [3, 7, 5, 10]
    other = backbone.embed(["make it red", "make it red", "make it blue", "10"]).extra["label"]
    assert other[0] == other[1]
    assert 0 <= other.min() <= other.max() < 10
    assert len(set(backbone.embed([f"word {i}" for i in range(200)]).extra["label"].tolist())) == 10
    assert label_dit.load(str(tmp_path), size=16, other="null").embed(["make it red"]).extra["label"].item() == 10


def test_a_new_label_transformer_starts_as_dit_does(tmp_path: Path) -> None:
    """Blocks that do nothing and a prediction of zero, around the autoencoder that is there."""
    pipeline(tiny_label(seed=1)).save_pretrained(tmp_path)
    made = label_dit.load(str(tmp_path), size=16, scratch=True, architecture=label_architecture())
    assert same(made.vae.state_dict(), tiny_label(seed=1).vae.state_dict())
    noisy, t, condition = inputs(made, [0, 1])
    with torch.no_grad():
        assert not made.predict(noisy, t, condition).any()
        x = torch.randn(2, 16, 16)
        label = condition.extra["label"]
        assert torch.equal(made.denoiser.transformer_blocks[0](x, timestep=t, class_labels=label), x)
    assert made.denoiser.pos_embed.proj.weight.std() > 0.01


@pytest.mark.parametrize(
    ("preset", "millions"), [("DiT-S/2", 33), ("DiT-B/2", 130), ("DiT-L/2", 458), ("DiT-XL/2", 675)]
)
def test_sizes_of_dit(preset: Any, millions: int) -> None:
    """Published parameters, where the embedding of time and class is there once and not in every block."""
    given = yaml.safe_load((CONFIGS / "dit.yaml").read_text())["backbone"]["architecture"]
    net = label_dit.load("meta", preset=preset, architecture=given).denoiser
    again = sum(p.numel() for block in list(net.transformer_blocks)[1:] for p in block.norm1.emb.parameters())
    assert round((sum(p.numel() for p in net.parameters()) - again) / 1e6) == pytest.approx(millions, abs=1)
    with pytest.raises(ValueError, match=r"^backbone.preset=DiT-S/2: only with"):
        label_dit.load("any/model", preset="DiT-S/2", architecture=given)


# Prediction


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_condition_carry_all_that_the_denoiser_reads(family: str) -> None:
    """Encoding, guidance and choosing rows give the same prediction as the rows alone."""
    backbone = FAMILIES[family]()
    pictures = torch.rand(3, 3, 16, 16) * 2 - 1
    prompts = ["a", "b", "c"]
    blank = {"key": prompts, "source_caption": prompts, "target_caption": prompts}
    batch = Batch(pictures, pictures, torch.zeros(3, 1, 16, 16), prompts, torch.arange(3), **blank, seed=[0, 0, 0])
    condition = encode_condition(backbone, batch)
    noisy, t = torch.randn(3, *backbone.latent_shape), torch.tensor([1, 500, 999])
    with torch.no_grad():
        whole = backbone.predict(noisy, t, condition)
        assert whole.shape == noisy.shape
        rows = [2, 0]
        assert torch.allclose(backbone.predict(noisy[rows], t[rows], condition[rows]), whole[rows], atol=1e-5)
        guided = guide(condition, backbone.embed([""]), [Guidance(1.5, 3.0)] * 3)
        out = backbone.predict(noisy[guided.sample], t[guided.sample], guided.condition)
    assert torch.allclose(out[-3:], whole, atol=1e-5)
    assert (out[:3] - whole).abs().max() > 1e-4  # the empty prompt is another text


def test_sdxl_reads_its_micro_conditioning() -> None:
    backbone = tiny_sdxl()
    noisy, t, condition = inputs(backbone, [0, 1])
    with torch.no_grad():
        before = backbone.predict(noisy, t, condition)
        condition.extra["text_embeds"][1] += 3  # type: ignore[index]
        after = backbone.predict(noisy, t, condition)
        taller = replace(condition, source=torch.zeros(2, 4, 16, 8))  # another shape of picture, by its time_ids alone
        other = backbone.predict(noisy, t, taller)
    assert torch.equal(before[0], after[0])
    assert (before[1] - after[1]).abs().max() > 1e-5
    assert (other - after).abs().flatten(1).amax(1).min() > 1e-5


def test_pixart_drops_the_learned_variance_and_hides_padding() -> None:
    backbone = tiny_transformer()
    noisy, t, condition = inputs(backbone, [0, 1])
    mask = condition.extra["text_mask"]
    assert 0 < mask[0].sum() < 16
    with torch.no_grad():
        out = backbone.predict(noisy, t, condition)
        raw = backbone.denoiser(
            noisy, encoder_hidden_states=condition.text, timestep=t, encoder_attention_mask=mask
        ).sample
        assert raw.shape[1] == 8
        assert torch.equal(out, raw[:, :4])
        condition.text[:] = torch.where(mask[..., None] == 1, condition.text, 100.0)
        assert torch.allclose(backbone.predict(noisy, t, condition), out, atol=1e-5)
        condition.text[:, 1] += 1
        assert (backbone.predict(noisy, t, condition) - out).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_canvas_of_double_width(family: str) -> None:
    backbone = FAMILIES[family]()
    noisy, t, condition = inputs(backbone, [0, 1])
    wide = torch.cat([noisy, noisy.flip(-1)], -1)
    with torch.no_grad():
        out = backbone.predict(wide, t, condition)
        assert out.shape == (2, 4, 8, 16)
        moved = wide.clone()
        moved[0, :, :, -1] += 5
        change = (backbone.predict(moved, t, condition) - out).abs().amax((1, 2, 3))
    assert change[0] > 1e-4
    assert change[1] == 0


def test_label_transformer_is_that_of_diffusers_on_squares() -> None:
    """Also in training, where diffusers' own would drop labels at random."""
    backbone: Any = tiny_label().train()
    noisy, t, condition = inputs(backbone, [0, 1, 2])
    with torch.no_grad():
        ours = backbone.predict(noisy, t, condition)
        backbone.denoiser.__class__ = DiTTransformer2DModel
        assert torch.equal(backbone.predict(noisy, t, condition), ours)


def test_positions_of_a_canvas_are_the_square_ones_in_finer_steps() -> None:
    embed = tiny_transformer().denoiser.pos_embed
    with torch.no_grad():
        empty = torch.zeros(1, 4, 8, 8)
        square = embed(empty).unflatten(1, (4, 4))  # (1, 4, 4, D): patches of 2 x 2
        wide = embed(torch.cat([empty, empty], -1)).unflatten(1, (4, 8))
    assert torch.allclose(wide[:, :, ::2], square, atol=1e-6)
    assert (wide[:, :, 1::2] - square).abs().amax(-1).min() > 0.1
    flat = wide.flatten(0, 2)
    assert torch.cdist(flat, flat).fill_diagonal_(1).min() > 0.01  # no two patches look alike


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_go_there_and_back_in_one_scale(family: str) -> None:
    backbone = FAMILIES[family]()
    pictures = torch.rand(2, 3, 16, 16) * 2 - 1
    latents = backbone.encode(pictures)
    assert latents.shape == (2, *backbone.latent_shape)
    raw = backbone.vae.encode(pictures).latent_dist.mean
    shift = 0.1 if family == "joint" else 0.0
    assert torch.allclose(latents, (raw - shift) * backbone.vae.config["scaling_factor"])
    assert torch.allclose(backbone.decode(latents), backbone.vae.decode(raw).sample.clamp(-1, 1), atol=1e-5)
    assert not latents.requires_grad


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_denoiser_enters_train_mode(family: str) -> None:
    backbone = FAMILIES[family]().train()
    parts = dict(backbone.named_children())
    assert parts.pop("denoiser").training
    assert not any(module.training for part in parts.values() for module in part.modules())
    assert set(parts) >= ({"vae"} if family == "label" else {"vae", "text_encoder"})


# Sites


def test_sites_of_a_transformer_stand_where_they_say() -> None:
    """The order of the forward pass: input, then per block attention, attention, norm, feed-forward."""
    backbone = tiny_transformer()
    kinds: dict[str, Any] = {"input": None, "self_attention": None, "cross_attention": None, "ffn": None}
    sites = {kind: backbone.sites(kind) for kind in kinds}  # type: ignore[arg-type]
    order: list[str] = []

    def watch(site: Any) -> None:
        site.module.register_forward_hook(lambda *_: order.append(site.name))
        assert backbone.denoiser.get_submodule(site.name) is site.module

    for site in itertools.chain(*sites.values(), (s.norm for s in sites["ffn"] if s.norm is not None)):
        watch(site)
    backbone.predict(*inputs(backbone, [0]))
    block = ["attn1", "attn2", "norm2", "ff"]
    expected = [f"transformer_blocks.{i}.{part}" for i in range(2) for part in block]
    assert order == ["pos_embed.proj", *expected]
    assert [s.width for s in sites["ffn"]] == [16, 16]
    assert [s.width for s in sites["input"]] == [4]


def test_a_block_of_a_transformer_is_whole() -> None:
    backbone = tiny_transformer()
    blocks = backbone.sites("block")
    assert [s.name for s in blocks] == ["transformer_blocks.0", "transformer_blocks.1"]
    assert not any(s.branch for s in blocks)

    class Nothing(nn.Module):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return x

    noisy, t, condition = inputs(backbone, [0, 1])
    for site in blocks:
        site.replace(Nothing())
    other = condition.text.flip(0)
    with torch.no_grad():
        out = backbone.predict(noisy, t, condition)
        condition.text[:] = other
        assert torch.equal(backbone.predict(noisy, t, condition), out)  # no block is left that reads the text


@pytest.mark.parametrize("family", FAMILIES)
def test_input_site_counts_channels_before_and_after_widening(family: str) -> None:
    backbone = FAMILIES[family]()
    assert [s.width for s in backbone.sites("input")] == [4]
    Denoiser(backbone, MTU(experts=2), TASKS)
    assert [s.width for s in backbone.sites("input")] == [9]


def test_joint_blocks_have_two_feed_forward_layers_but_the_last() -> None:
    backbone = tiny_joint()
    names = [(s.name, s.norm.name if s.norm else "") for s in backbone.sites("ffn")]
    first, last = "transformer_blocks.0", "transformer_blocks.1"
    assert names == [
        (f"{first}.ff", f"{first}.norm2"),
        (f"{first}.ff_context", f"{first}.norm2_context"),
        (f"{last}.ff", f"{last}.norm2"),
    ]
    assert [s.name for s in backbone.sites("self_attention")] == [f"{first}.attn", f"{last}.attn"]
    assert backbone.sites("cross_attention") == []


def test_nothing_trains_what_nothing_uses() -> None:
    """The last joint block's text queries reach no output."""
    backbone = tiny_joint()
    backbone.denoiser.requires_grad_(True)
    backbone.predict(*inputs(backbone, [0, 1])).square().mean().backward()
    unused = [k for k, p in backbone.denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert unused == [f"{name}.{kind}" for name in backbone.idle()[:1] for kind in ("weight", "bias")]
    denoiser = Denoiser(backbone, Finetune(), TASKS)
    assert not set(denoiser.trained_parameters()) & set(unused)


def test_task_norm_of_a_transformer_starts_neutral() -> None:
    """Its norms have no weights of their own: weight 1 and bias 0 for every task, also without values."""
    for weights in ("random", "meta"):
        backbone = tiny_transformer(weights)
        Denoiser(backbone, MTU(experts=2), TASKS)
        for site in backbone.sites("ffn"):
            assert site.norm is not None
            norm: Any = site.norm.module
            assert norm.weight.shape == norm.bias.shape == (4, 16)
            assert norm.weight.is_meta == (weights == "meta")
            assert weights == "meta" or (bool((norm.weight == 1).all()) and bool((norm.bias == 0).all()))


# Folding, saving, loading


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_network_survives_diffusers(family: str, tmp_path: Path) -> None:
    backbone = FAMILIES[family]()
    denoiser = Denoiser(backbone, MTU(experts=2), TASKS)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in denoiser.trained_parameters().values():
            p.add_(0.1 * torch.randn_like(p))
    noisy, t, condition = inputs(backbone, [3, 3])
    with torch.no_grad():
        expected = denoiser(noisy, t, condition)
        denoiser.method.fold(backbone, 3)
        backbone.denoiser.save_pretrained(tmp_path)
        backbone.denoiser = type(backbone.denoiser).from_pretrained(tmp_path)
        got = denoiser(noisy, t, condition)
    assert torch.allclose(got, expected, atol=1e-5)


def test_unfolded_transformer_keeps_its_configuration() -> None:
    backbone = tiny_transformer()
    backbone.sync_config()
    assert backbone.denoiser.config["in_channels"] == 4
    assert backbone.denoiser.config["norm_elementwise_affine"] is False
    assert PixArtTransformer2DModel.from_config(backbone.denoiser.config).state_dict().keys() == (
        backbone.denoiser.state_dict().keys()
    )


@pytest.mark.parametrize(("family", "plain"), [("joint", SD3Transformer2DModel), ("label", DiTTransformer2DModel)])
def test_norms_of_a_folded_transformer_are_absorbed(family: str, plain: type[nn.Module]) -> None:
    """The time's shift and scale take the task norm's weight and bias: diffusers' own class, with the same weights."""
    backbone = FAMILIES[family]()
    names = set(backbone.denoiser.state_dict())
    denoiser = Denoiser(backbone, MTU(experts=2), TASKS)
    denoiser.method.fold(backbone, 1)
    assert type(backbone.denoiser) is plain
    assert set(backbone.denoiser.state_dict()) == names


@pytest.mark.parametrize("family", FAMILIES)
def test_folder_in_diffusers_format(family: str, tmp_path: Path) -> None:
    made = FAMILIES[family]()
    pipeline(made).save_pretrained(tmp_path)
    loaders: Any = {"unet": stable_diffusion, "sdxl": sdxl, "transformer": dit, "joint": sd3, "label": label_dit}
    loader = loaders[family].load
    tokens = {"transformer": {"tokens": 16}, "joint": {"tokens": 4}}.get(family, {})
    read = loader(str(tmp_path), size=16, **tokens)
    assert same(state(read), state(made))
    text, again = made.embed(PROMPTS), read.embed(PROMPTS)
    assert torch.equal(text.tokens, again.tokens)
    assert same(dict(text.extra), dict(again.extra))
    assert read.latent_shape == made.latent_shape


def test_transformer_and_other_parts_from_two_places(tmp_path: Path) -> None:
    one, other = tiny_transformer(seed=1), tiny_transformer(seed=2)
    pipeline(other).save_pretrained(tmp_path / "parts")
    one.denoiser.save_pretrained(tmp_path / "alone" / "transformer")
    read = dit.load(str(tmp_path / "alone"), size=16, parts=str(tmp_path / "parts"), tokens=16)
    assert same(read.denoiser.state_dict(), one.denoiser.state_dict())
    assert same(read.text_encoder.state_dict(), other.text_encoder.state_dict())
    assert same(read.vae.state_dict(), other.vae.state_dict())


def test_text_encoder_of_the_kind_that_is_there(tmp_path: Path) -> None:
    clip = {**TINY_CLIP, "model_type": "clip_text_model"}
    made = dit.load("random", size=16, tokens=16, architecture=architecture(text_encoder=clip))
    pipeline(made).save_pretrained(tmp_path)
    read = dit.load(str(tmp_path), size=16, tokens=16)
    assert type(read.text_encoder) is type(made.text_encoder)
    assert torch.equal(read.embed(PROMPTS).tokens, made.embed(PROMPTS).tokens)


def test_latents_are_never_clipped(tmp_path: Path) -> None:
    """Files written by other schedulers do not say so, and DDIM's own default is to clip."""
    made: Any = tiny_transformer()
    pipe = pipeline(made)
    pipe.scheduler = DPMSolverMultistepScheduler(beta_schedule="linear")
    pipe.save_pretrained(tmp_path)
    assert dit.load(str(tmp_path), size=16, tokens=16).scheduler.config["clip_sample"] is False
    assert made.scheduler.config["clip_sample"] is False


# Building


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_depend_on_the_seed_alone(family: str) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = state(FAMILIES[family](seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert same(one, state(FAMILIES[family](seed=1)))
    assert not same(one, state(FAMILIES[family](seed=2)))


def test_partial_architecture_is_completed_from_the_shipped_model(tmp_path: Path, monkeypatch: Any) -> None:
    pipeline(tiny_unet()).save_pretrained(tmp_path)
    monkeypatch.setattr(stable_diffusion, "shipped_folder", lambda: tmp_path)
    wider = {**UNET, "block_out_channels": [24, 32]}
    made = stable_diffusion.load("meta", size=16, architecture={"unet": wider})
    assert made.denoiser.conv_in.out_channels == 24
    assert made.text_encoder.config.hidden_size == 16
    assert same(state(stable_diffusion.load("nano", size=16)), state(tiny_unet()))


def alter(part: str, **changed: Any) -> dict[str, Any]:
    return architecture(**{part: {**architecture()[part], **changed}})


MISTAKES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unknown part": (dit.load, {"architecture": architecture(transfomer={})}, "did you mean 'transformer'"),
    "unknown keyword": (dit.load, {"architecture": alter("transformer", num_layer=3)}, "did you mean 'num_layers'"),
    "unknown text keyword": (dit.load, {"architecture": alter("text_encoder", d_mode=3)}, "did you mean 'd_model'"),
    "unknown noise keyword": (
        dit.load,
        {"architecture": alter("scheduler", beta=3)},
        "scheduler.beta: expected one of",
    ),
    "unknown text encoder": (dit.load, {"architecture": alter("text_encoder", model_type="t6")}, "t5, clip_text_model"),
    "too few words": (dit.load, {"architecture": alter("text_encoder", vocab_size=99)}, "at least the 514"),
    "sizes read": (dit.load, {"architecture": alter("transformer", use_additional_conditions=True)}, "PixArt-Sigma"),
    "nothing given to a transformer": (dit.load, {}, "architecture.transformer: has to be given"),
    "nothing given to XL": (sdxl.load, {}, "architecture.unet: has to be given"),
    "half given to XL": (
        sdxl.load,
        {"architecture": {k: v for k, v in sdxl_parts().items() if k != "text_encoder_2"}},
        "architecture.text_encoder_2: has to be given",
    ),
    "unknown XL part": (sdxl.load, {"architecture": sdxl_parts(text_encoder_3={})}, "text_encoder_3: expected one of"),
    "nothing given to SD3": (sd3.load, {}, "architecture.transformer: has to be given"),
    "unknown SD3 part": (sd3.load, {"architecture": joint_architecture(unet={})}, "unet: expected one of"),
    "nothing given to DiT": (label_dit.load, {}, "architecture.transformer: has to be given"),
    "text given to DiT": (
        label_dit.load,
        {"architecture": label_architecture(text_encoder=TINY_CLIP)},
        "text_encoder: expected one of",
    ),
    "unknown SD part": (stable_diffusion.load, {"architecture": {"unett": UNET}}, "did you mean 'unet'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_one_line(mistake: str) -> None:
    loader, options, expected = MISTAKES[mistake]
    with pytest.raises(ValueError, match="backbone") as error:
        loader("meta", size=16, **options)
    assert expected in said(error)


@pytest.mark.parametrize("loader", LOADERS.values())
def test_a_folder_without_a_model_in_one_line(loader: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="could not be read there") as error:
        loader(str(tmp_path))
    assert str(tmp_path) in said(error)


def test_no_shipped_model_in_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(stable_diffusion, "shipped_folder", lambda: tmp_path)
    with pytest.raises(ValueError, match="has to be given, the shipped model is not at") as error:
        stable_diffusion.load("meta", architecture={"unet": UNET})
    assert str(tmp_path) in said(error)


# The hub, as a server of our own on this machine plays it


REFUSALS = {  # what the hub answers, and what is said
    "none/there": (401, "RepoNotFound", "no such repository"),
    "behind/terms": (403, "GatedRepo", "gated: accept its terms at https://huggingface.co/behind/terms"),
    "old/revision": (404, "RevisionNotFound", "backbone.revision=abc: the repository has no such revision"),
}


class Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        found = next((v for k, v in REFUSALS.items() if f"/{k}/" in self.path), (404, "EntryNotFound", ""))
        self.send_response(found[0])
        self.send_header("X-Error-Code", found[1])
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("loader", LOADERS.values())
@pytest.mark.parametrize("weights", REFUSALS)
def test_the_hubs_refusals_in_one_line(weights: str, loader: Any, hub: HTTPServer) -> None:
    with pytest.raises(ValueError, match=f"backbone.weights='{weights}'") as error:
        loader(weights, revision="abc")
    assert REFUSALS[weights][2] in said(error)


def test_no_network_in_one_line(hub: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="the hub cannot be reached") as error:
        sdxl.load("any/model")
    assert "HF_HUB_OFFLINE" in said(error)
