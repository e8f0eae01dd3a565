"""EMMA and IP-Adapter: gates, references that are there or not, and sums of modules that were trained apart."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import adapted, inputs_of, make, options, shake
from tiny import BACKBONES, TASKS, tiny_unet
from torch import Tensor
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from baselines.emma import Emma
from baselines.ip_adapter import IPAdapter
from baselines.references import ReferenceMethod
from mtdiff.backbones.picture_encoder import PictureEncoder
from mtdiff.methods.merging import CannotMerge
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import REFERENCE, Condition

OBJECT, STYLE = REFERENCE + "object", REFERENCE + "style"
KINDS: dict[str, type[ReferenceMethod]] = {"emma": Emma, "ip_adapter": IPAdapter}


def build(method: ReferenceMethod, shaken: float = 0.1, seed: int = 1) -> Denoiser:
    torch.manual_seed(seed)
    return shake(Denoiser(tiny_unet(), method, TASKS), shaken)


def change(condition: Condition, **extra: Tensor | None) -> Condition:
    """The condition with other references; None takes one away."""
    named = {REFERENCE + name: value for name, value in extra.items()}
    kept = {**condition.extra, **named}
    return replace(condition, extra={k: v for k, v in kept.items() if v is not None})


@torch.no_grad()
def predict(denoiser: Denoiser, condition: Condition | None = None, rows: Any = slice(None)) -> Tensor:
    noisy, t, own = inputs_of(denoiser, [0] * 6)
    condition = own if condition is None else condition
    return denoiser(noisy[rows], t[rows], condition[rows])


def base_prediction(denoiser: Denoiser) -> Tensor:
    noisy, t, condition = inputs_of(denoiser, [0] * 6)
    with torch.no_grad():
        return tiny_unet().predict(noisy, t, condition)


@pytest.mark.parametrize("case", ["emma", "emma gate=scalar", "emma time=false"])
def test_it_is_the_base_bit_for_bit_at_the_start_and_with_its_gates_shut(case: str) -> None:
    started = adapted(case, "unet")
    assert torch.equal(predict(started), base_prediction(started))
    trained = adapted(case, "unet", shaken=0.1)
    assert not torch.equal(predict(trained), base_prediction(trained))
    with torch.no_grad():
        for name, parameter in trained.trained_parameters().items():
            if name.endswith((".A", ".F")):
                parameter.zero_()
    assert torch.equal(predict(trained), base_prediction(trained))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_without_references_is_the_bases(kind: str) -> None:
    """One, several or none in a batch: each sample is as it would be alone with its own."""
    denoiser = build(KINDS[kind](["object", "style"]))
    _, _, condition = inputs_of(denoiser, [0] * 6)
    some, other = condition.extra[OBJECT].clone(), condition.extra[STYLE].clone()
    some[[0, 1]], other[[0, 2]] = 0, 0  # none, style alone, object alone, both, both, both
    mixed = predict(denoiser, change(condition, object=some, style=other))
    base = base_prediction(denoiser)
    torch.testing.assert_close(mixed[0], base[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(mixed[1:2], predict(denoiser, change(condition, object=None), slice(1, 2)))
    torch.testing.assert_close(mixed[2:3], predict(denoiser, change(condition, style=None), slice(2, 3)))
    torch.testing.assert_close(mixed[3:], predict(denoiser, condition, slice(3, 6)))
    assert all((mixed[k] - base[k]).abs().max() > 1e-4 for k in range(1, 6))
    nothing = predict(denoiser, change(condition, object=None, style=None))
    assert torch.equal(nothing, base)


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_sees_its_own_reference(kind: str) -> None:
    denoiser = build(KINDS[kind]())
    _, _, condition = inputs_of(denoiser, [0] * 6)
    order = torch.tensor([3, 5, 0, 4, 1, 2])
    swapped = predict(denoiser, change(condition, object=condition.extra[OBJECT][order]))
    whole = predict(denoiser)
    assert all((swapped[k] - whole[k]).abs().max() > 1e-5 for k in range(6))
    torch.testing.assert_close(predict(denoiser, condition, order), whole[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_modules_that_were_trained_apart_add_up(kind: str) -> None:
    one, other = (build(KINDS[kind]([name]), seed=k) for k, name in enumerate(("object", "style")))
    state = {**one.adapter(), **other.adapter()}
    given = [{**options(kind), "references": [name]} for name in ("object", "style")]
    for node in given:
        node.pop("_target_")

    def summed(*weights: float) -> Denoiser:
        made = build(KINDS[kind](**make(kind).sum_options(given, weights)), shaken=0)
        made.load_adapter(state)
        return made

    both = summed(1, 1)
    _, _, condition = inputs_of(both, [0] * 6)
    assert torch.equal(predict(summed(1, 0), condition), predict(one, change(condition, style=None)))
    assert torch.equal(predict(summed(0, 1), condition), predict(other, change(condition, object=None)))
    assert torch.equal(predict(summed(0, 0), condition), base_prediction(both))
    assert torch.equal(predict(both, change(condition, style=None)), predict(one, change(condition, style=None)))
    half, whole = (predict(summed(w, 1), condition) for w in (0.5, 1))
    assert (half - whole).abs().max() > 1e-5
    with pytest.raises(CannotMerge, match="reference 'object' is in two of the runs"):
        make(kind).sum_options([given[0], given[0]], (1, 1))


def test_a_sum_is_what_the_formula_says() -> None:
    """Two modules of one block: attention reads the same text, and the feed-forward layers what comes of both."""
    denoiser = build(Emma(["object", "style"], weights=[1.0, 0.5], blocks=1))
    _, t, condition = inputs_of(denoiser, [0] * 6)
    modules: Any = denoiser.backbone.denoiser.emma
    with torch.no_grad():
        text = condition.text
        for step in ("attend", "think"):
            changes = []
            for name, weight in (("object", 1.0), ("style", 0.5)):
                block, time = modules[name].blocks[0], modules[name].embed_time(t)
                seen = (text, condition.extra[REFERENCE + name], time) if step == "attend" else (text, time)
                changes.append(weight * getattr(block, step)(*seen))
            text = text + changes[0] + changes[1]
        found = denoiser.method.layout.resample(condition, t)  # type: ignore[attr-defined]
    torch.testing.assert_close(found, text)


@pytest.mark.parametrize("kind", KINDS)
def test_a_base_that_reads_no_text_is_refused(kind: str) -> None:
    for name in ("label",) if kind == "emma" else ("label", "joint"):
        with pytest.raises(ValueError, match=r"^method: [^\n]+ (reads|has) none$"):
            KINDS[kind]().check(BACKBONES[name]())


# The picture encoder


def pictures(n: int) -> Tensor:
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_pictures_become_tokens_and_zeros_stay_zeros() -> None:
    method, given = Emma(["object", "style"]), pictures(5)
    given[2] = 0
    found = method.encode_extra(tiny_unet(), {OBJECT: given, "reference.other": given})
    assert list(found) == [OBJECT]
    tokens = found[OBJECT]
    assert tokens.shape == (5, *method.token_shape) == (5, 65, 64)
    assert not tokens[2].any()
    assert all(tokens[k].any() for k in (0, 1, 3, 4))


def test_tokens_do_not_depend_on_what_else_is_encoded() -> None:
    """To the last bit, so that a run that goes on with an empty memory is the run that was not stopped."""
    first, again = PictureEncoder(), PictureEncoder()
    seven = pictures(7)
    whole = first.encode(seven)
    apart = torch.cat([again.encode(seven[k : k + 1]) for k in (6, 2, 5, 0, 1, 3, 4)])
    assert torch.equal(apart, whole[[6, 2, 5, 0, 1, 3, 4]])
    assert torch.equal(first.encode(seven[[3, 3]]), whole[[3, 3]])
    assert copy.deepcopy(first) is first


def test_a_clip_of_a_folder_reads_the_references(tmp_path: Path) -> None:
    """In the format of the hub, as for Stable Diffusion 1.5; transformers' own network gives the same tokens."""
    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 2, "image_size": 32, "patch_size": 16, "projection_dim": 8}
    torch.manual_seed(0)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**shape)).eval()
    tower.save_pretrained(tmp_path / "image_encoder")
    for folder in (tmp_path, tmp_path / "image_encoder"):
        encoder = PictureEncoder(str(folder))
        assert encoder.shape == (5, 16)
        two = pictures(2)
        with torch.no_grad():
            expected = tower(pixel_values=encoder.prepare(two)).last_hidden_state
        torch.testing.assert_close(encoder.encode(two), expected)
        mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])
        flat = encoder.prepare(torch.ones(1, 3, 48, 40))[0, :, 0, 0]
        torch.testing.assert_close(flat, (1 - torch.tensor(mean)) / torch.tensor(std))
    assert Emma(encoder=str(tmp_path)).token_shape == (5, 16)
    with pytest.raises(
        ValueError, match=r"^method\.encoder='nowhere/at/all': could not be read \([^\n]+\); expected nano"
    ):
        _ = Emma(encoder="nowhere/at/all").token_shape
