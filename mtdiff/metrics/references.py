"""How an answer agrees with the truth, with reference pictures, and with what a gallery of the data shows.

clip_image_similarity       cos(E(answer), E(truth))                                 CLIP-I
clip_reference_similarity   cos(E(answer), E(reference)), mean of those given        CLIP-I to the references
own_of_200                  1 where the answer is nearer to its own caption than to 199 others of the gallery
style_accuracy              1 where a small classifier finds the wanted label, such as the designer, in the answer

E gives unit vectors of the measuring CLIP. The classifier sees training pictures alone.

Letters: n examples, D width of a feature vector, K labels.
"""

import hashlib
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from mtdiff.errors import RunError
from mtdiff.files.writing import find_user_cache, write_atomically
from mtdiff.metrics.embedding import MeasuringClip
from mtdiff.metrics.measures import ClipMeasure, Galleries, Parts
from mtdiff.types import REFERENCE, Batch, Gallery

CHOICES = 200
LEARNT, TESTED = 2000, 1000  # pictures that the classifier learns from, and is tested on, at most
RIDGE = 100.0  # weight of the squared coefficients, of features of variance 1
LEAST = 10  # pictures without which nothing is learnt


def stack_pictures(gallery: Gallery) -> Tensor:
    """(n, 3, H, W) in [-1, 1]."""
    return torch.stack([record.image for record in gallery.records]).float() / 127.5 - 1


class ImageSimilarity(ClipMeasure):
    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        a, b = (parts(self.clip.images, x) for x in (outputs, batch.target))
        return (a * b).sum(1)


class ReferenceSimilarity(ClipMeasure):
    """The mean over an example's references; does not apply to one without."""

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        answers, sums, counts = parts(self.clip.images, outputs), torch.zeros(len(outputs)), torch.zeros(len(outputs))
        for key, pictures in batch.extra.items():
            if key.startswith(REFERENCE):
                given = pictures.flatten(1).any(1).float().cpu()  # (n,)
                sums += given * (answers * parts(self.clip.images, pictures)).sum(1)
                counts += given
        return torch.where(counts > 0, sums / counts, math.nan)


class OwnAmong(ClipMeasure):
    """Does the answer find its own caption among CHOICES? The others are those of the training gallery."""

    fallible: ClassVar[bool] = True

    def __init__(self, name: str, clip: MeasuringClip) -> None:
        super().__init__(name, clip)
        self.galleries: Galleries | None = None

    def look_at(self, galleries: Galleries) -> None:
        self.galleries = galleries

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        gallery = Gallery() if self.galleries is None else self.galleries("train", CHOICES)
        others = [record.caption for record in gallery.records]
        if len(others) < CHOICES:
            return torch.full((len(outputs),), math.nan)
        answers, told = parts(self.clip.images, outputs), parts(self.clip.texts, others)  # (n, D), (CHOICES, D)
        own = (answers * parts(self.clip.texts, batch.target_caption)).sum(1)  # (n,)
        similar = answers @ told.T
        for i, caption in enumerate(batch.target_caption):
            places = [k for k, other in enumerate(others) if other == caption] or [CHOICES - 1]
            similar[i, places[0]] = -math.inf  # so that 199 are left
        return (own > similar.amax(1)).double()


@dataclass(frozen=True)
class Classifier:
    """Ridge regression of labels on frozen features. weight (D + 1, K): the last row is the bias. accuracy: tested."""

    mean: Tensor
    spread: Tensor
    weight: Tensor
    accuracy: Tensor

    def classify(self, features: Tensor) -> Tensor:
        """(n, D) -> (n,): the place of the label."""
        return (add_one((features.double() - self.mean) / self.spread) @ self.weight).argmax(1)

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, count: int) -> "Classifier":
        """features (n, D), labels (n,) below `count`. A closed form, so the same everywhere up to rounding."""
        x = features.double()
        mean, spread = x.mean(0), x.std(0).clamp_min(1e-6)
        x = add_one((x - mean) / spread)
        y = nn.functional.one_hot(labels, count).double()
        weight = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]).double(), x.T @ y)
        return cls(mean, spread, weight, torch.tensor(math.nan).double())


def add_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


class StyleAccuracy(ClipMeasure):
    """Does a classifier on CLIP's embeddings find the wanted label in the answer? That is the one which the caption of
    the truth begins with. The classifier is made on first use, from training pictures of the gallery, and kept in the
    user's cache; its own accuracy is that on the gallery's test pictures.
    """

    fallible: ClassVar[bool] = True

    def __init__(self, name: str, clip: MeasuringClip) -> None:
        super().__init__(name, clip)
        self.galleries: Galleries | None = None
        self.labels: list[str] = []
        self.made: Classifier | None = None
        self.counts: list[int] = []  # learnt from, tested on

    def look_at(self, galleries: Galleries) -> None:
        self.galleries, self.made = galleries, None

    def describe(self) -> dict[str, Any]:
        if self.made is None:
            return {}
        return {"labels": self.labels, "test_accuracy": round(float(self.made.accuracy), 4), "pictures": self.counts}

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        made = self.made = self.made or self.learn(parts)
        if made is None:
            return torch.full((len(outputs),), math.nan)
        found = made.classify(parts(self.clip.images, outputs))
        wanted = [self.find_label(caption) for caption in batch.target_caption]
        hits = [
            math.nan if label is None else float(k == label) for k, label in zip(found.tolist(), wanted, strict=True)
        ]
        return torch.tensor(hits).double()

    def find_label(self, caption: str) -> int | None:
        return next((k for k, label in enumerate(self.labels) if caption.startswith(f"{label},")), None)

    def learn(self, parts: Parts) -> Classifier | None:
        """The classifier, from the cache or made; None where the data has no labels to tell apart."""
        if self.galleries is None:
            return None
        train, test = self.galleries("train", LEARNT), self.galleries("test", TESTED)
        self.labels = sorted(set(train.labels))
        if len(self.labels) < 2 or len(train.labels) < LEAST:
            return None
        self.counts = [len(train.labels), len(test.labels)]
        key = hash_galleries([train, test], self.clip)
        if (kept := read_classifier(key)) is not None:
            return kept
        learnt, tested = (self.number_labels(gallery.labels) for gallery in (train, test))
        made = Classifier.fit(parts(self.clip.images, stack_pictures(train)), learnt, len(self.labels))
        right = made.classify(parts(self.clip.images, stack_pictures(test))) == tested
        made = Classifier(made.mean, made.spread, made.weight, right.double().mean())
        keep_classifier(key, made)
        return made

    def number_labels(self, labels: Sequence[str]) -> Tensor:
        """(n,): places of labels, -1 for one that training has not."""
        return torch.tensor([self.labels.index(label) if label in self.labels else -1 for label in labels])


def hash_galleries(galleries: Sequence[Gallery], features: nn.Module) -> str:
    """What a classifier was made from: pictures, labels, and the weights of the features."""
    digest = hashlib.sha256(f"{LEARNT} {TESTED} {RIDGE}".encode())
    for gallery in galleries:
        for record, label in zip(gallery.records, gallery.labels, strict=True):
            digest.update(label.encode() + record.image.numpy().tobytes())
    for weight in features.state_dict().values():
        digest.update(weight.cpu().numpy().tobytes())
    return digest.hexdigest()[:32]


def read_classifier(key: str) -> Classifier | None:
    """A classifier of the user's cache, or None where there is none that can be read."""
    try:
        return Classifier(**load((find_user_cache() / f"style-{key}.safetensors").read_bytes()))
    except (OSError, SafetensorError, TypeError):
        return None


def keep_classifier(key: str, made: Classifier) -> None:
    """Keep a classifier in the user's cache, where that can be done."""
    folder, tensors = find_user_cache(), {name: value.contiguous() for name, value in vars(made).items()}
    with suppress(OSError, RunError):
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"style-{key}.safetensors", save(tensors))
