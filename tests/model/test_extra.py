"""What a method is given beside source and text: it comes in with examples, and is dropped with the text."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tiny import TASKS, tiny_unet
from tiny_fits import batch, settings
from torch import Tensor

from mtdiff.backbones.base import Encoder
from mtdiff.methods.layout import Layout, Predict
from mtdiff.methods.untouched import TargetAlone, Untouched
from mtdiff.model.conditioning import Dropout, encode_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.painter import Painter, first_noise
from mtdiff.model.sampling import Guidance, guide
from mtdiff.runs.baselines import hash_batch
from mtdiff.training.faults import keep, load
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import Batch, Condition, Example


class Tinted(TargetAlone):
    """Adds the tint to what is predicted."""

    def __call__(self, predict: Predict, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return predict(noisy, t, condition) + condition.extra["tint"]


class Tint(Untouched):
    @property
    def layout(self) -> Layout:
        return Tinted()

    def encode_extra(self, encoder: Encoder, extra: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"tint": extra["colour"].view(-1, 1, 1, 1)}


def tinted(*colours: float) -> Batch:
    four = batch()
    return replace(four, extra={"colour": torch.tensor(colours)})


def example(**extra: Tensor) -> Example:
    picture = torch.zeros(3, 4, 4)
    return Example(picture, picture, picture[:1], "a picture", 0, "key", extra=extra)


def test_examples_that_lack_a_name_get_zeros() -> None:
    made = Batch.collate([example(a=torch.ones(2)), example(b=torch.tensor(3)), example()])
    assert {k: v.tolist() for k, v in made.extra.items()} == {"a": [[1, 1], [0, 0], [0, 0]], "b": [0, 3, 0]}
    assert made.extra["b"].dtype == torch.int64
    joined = Batch.cat([made, Batch.collate([example(c=torch.ones(1))])])
    assert joined.extra["a"].shape == (4, 2)
    assert joined.extra["c"].tolist() == [[0], [0], [0], [1]]
    some = joined.rows(torch.tensor([False, True, False, True]))
    assert (some.extra["b"].tolist(), len(some)) == ([3, 0], 2)
    assert joined.to("meta").extra["a"].is_meta


def test_guidance_counts_it_as_it_counts_the_text() -> None:
    """The guided prediction moves by s_T times the tint."""
    denoiser = Denoiser(tiny_unet(), Tint(), TASKS)
    condition = encode_condition(denoiser.backbone, tinted(0, 1, 2, 4), denoiser.method.encode_extra)
    x, t = torch.zeros(4, *denoiser.backbone.latent_shape), torch.tensor(500)
    for scale in (1.0, 3.0):
        guided = guide(condition, denoiser.backbone.embed([""]), [Guidance(1.0, scale)] * 4)
        plain = replace(
            guided, condition=replace(guided.condition, extra={"tint": torch.zeros(len(guided.sample), 1, 1, 1)})
        )
        moved = (guided(denoiser, x, t) - plain(denoiser, x, t)).mean((1, 2, 3))
        torch.testing.assert_close(moved, scale * torch.tensor([0.0, 1, 2, 4]))


def test_a_painter_gives_it_to_the_model() -> None:
    draw = partial(Painter, guidance={}, sampler="ddim", steps=1)
    noise = first_noise(batch(), (4, 8, 8), 0)
    base = draw(denoiser=Denoiser(tiny_unet(), Untouched(), TASKS)).draw(batch(), noise)
    painter = draw(denoiser=Denoiser(tiny_unet(), Tint(), TASKS))
    same = (painter.draw(tinted(0, 0, 0, 1), noise) == base).flatten(1).all(1)
    assert same.tolist() == [True, True, True, False]


def test_training_drops_it_with_the_text() -> None:
    module = MultiTaskModule(Denoiser(tiny_unet(), Tint(), TASKS), settings(), seed=0)
    _, _, kept, _ = module.prepare(tinted(1, 2, 3, 4), None, 1.0)
    _, _, dropped, _ = module.prepare(tinted(1, 2, 3, 4), Dropout(1.0, 0.0, 0.0), 1.0)
    assert kept.extra["tint"].flatten().tolist() == [1, 2, 3, 4]
    assert not dropped.extra["tint"].any()


def test_a_kept_batch_comes_back_with_it(tmp_path: Path) -> None:
    made = tinted(1, 2, 3, 4)
    keep(tmp_path / "run" / "faults" / "step-1.json", {}, made)
    again = load(tmp_path / "run" / "faults" / "step-1.json")
    assert torch.equal(again.extra["colour"], made.extra["colour"])
    assert hash_batch(again) == hash_batch(made) != hash_batch(tinted(1, 2, 3, 5))
