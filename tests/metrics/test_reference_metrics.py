"""What judges answers to reference pictures, against what is computed by hand and by least squares."""

import math
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from tiny_fits import batch

from mtdiff.data.emoji.source import EmojiSource
from mtdiff.metrics import references
from mtdiff.metrics.quality import Judge
from mtdiff.metrics.references import Classifier, stack_pictures
from mtdiff.metrics.suites import Embedded
from mtdiff.types import Batch, Gallery


@cache
def judge() -> Judge:
    made = Embedded().judge()
    made.look_at(EmojiSource().gallery)
    return made


def portraits(split: str, number: int) -> Gallery:
    return EmojiSource().gallery(split, number)  # type: ignore[arg-type]


def asked(gallery: Gallery) -> Batch:
    """A batch whose truths are the gallery's pictures."""
    n = len(gallery.records)
    captions, target = [record.caption for record in gallery.records], stack_pictures(gallery)
    like = batch(n) if n != 4 else batch()
    return replace(like, target=target, source=torch.zeros_like(target), target_caption=captions)


def test_similarities_are_cosines() -> None:
    four = asked(portraits("test", 6))
    given = four.target.roll(1, 0)
    given[0] = 0
    few = four.target * (torch.arange(6) > 1).view(-1, 1, 1, 1)
    four = replace(four, extra={"reference.style": given, "reference.object": few})
    answers = four.target.flip(0)
    clip = judge().measure("image").clip  # type: ignore[union-attr]
    a, b, c = (clip.images(x) for x in (answers, four.target, given))  # type: ignore[operator]
    torch.testing.assert_close(judge().scores("image", answers, four), (a * b).sum(1).double(), atol=1e-5, rtol=0)
    expected = torch.stack([(a * c).sum(1), ((a * c).sum(1) + (a * b).sum(1)) / 2])
    expected = torch.where(torch.arange(6) > 1, expected[1], expected[0]).double()
    found = judge().scores("reference_image", answers, four)
    assert math.isnan(found[0])
    torch.testing.assert_close(found[1:], expected[1:], atol=1e-5, rtol=0)


def test_true_pictures_find_their_own_name_and_others_do_not() -> None:
    truth = asked(portraits("train", 40))
    own = judge().scores("own", truth.target, truth)
    assert own.mean() > 0.6
    assert judge().scores("own", truth.target.roll(1, 0), truth).mean() < 0.1
    unknown = Embedded().judge()
    assert unknown.scores("own", truth.target, truth).isnan().all()
    assert unknown.scores("style", truth.target, truth).isnan().all()


def test_the_classifier_is_ridge_regression() -> None:
    """By least squares on the data with a row of the square root of the ridge for each coefficient."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    features = rng.normal(size=(60, 5)) + labels[:, None] * 0.7
    made = Classifier.fit(torch.from_numpy(features), torch.from_numpy(labels), 3)
    scaled = np.c_[(features - features.mean(0)) / features.std(0, ddof=1), np.ones(60)]
    rows, wanted = np.r_[scaled, np.sqrt(references.RIDGE) * np.eye(6)], np.r_[np.eye(3)[labels], np.zeros((6, 3))]
    expected = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    np.testing.assert_allclose(made.weight.numpy(), expected, atol=1e-9)
    assert made.classify(torch.from_numpy(features)).tolist() == (scaled @ expected).argmax(1).tolist()


def test_styles_are_told_apart_and_the_classifier_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "LEARNT", 300)
    monkeypatch.setattr(references, "TESTED", 40)
    test, made = asked(portraits("test", 30)), judge()
    found = made.scores("style", test.target, test)
    assert found.mean() > 0.8
    told = made.describe()["style_accuracy_embedded"]
    assert told["test_accuracy"] > 0.8
    other = replace(test, target_caption=["someone, " + c for c in test.target_caption])
    assert made.scores("style", test.target, other).isnan().all()
    again = Embedded().judge()
    again.look_at(EmojiSource().gallery)
    monkeypatch.setattr(Classifier, "fit", None)  # found in the cache
    assert torch.equal(again.scores("style", test.target, test), found)
    assert again.describe() == made.describe()
