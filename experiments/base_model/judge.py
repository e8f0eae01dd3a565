"""What a base draws, judged: does the measuring CLIP find its own emoji, both objects of a scene; distance of features.

Nothing here is trained or tuned on. Intervals are over captions (percentile bootstrap, 95 %).

Letters: n pictures, K texts to choose from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from base_model.denoiser import make_condition
from base_model.records import stack_records, to_float
from mtdiff.data.emoji.scenes import Scene
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.metrics.alexnet import AlexNetEmbedding
from mtdiff.metrics.distances import frechet
from mtdiff.metrics.embedding import MeasuringClip
from mtdiff.model.painter import Painter
from mtdiff.results.intervals import Interval, mean_interval
from mtdiff.rng import numpy_rng, torch_rng
from mtdiff.types import Split

TASK = "text_to_image"
OTHERS = 7
"""Names that each object of a scene is told apart from."""
AT_ONCE = 50


@dataclass(frozen=True)
class Prompts:
    """Captions and their true pictures (n, 3, H, W) in [-1, 1]."""

    captions: list[str]
    truth: Tensor


def choose_portraits(source: EmojiSource, number: int, split: Split) -> Prompts:
    """Random portraits of training emoji, whose names a base knows; no two of one base, and others in each split."""
    portraits = source.portraits("train")
    order = numpy_rng("base", "portraits").permutation(len(portraits))
    start = {"validation": 0, "test": len(order) // 2}[split]
    first: dict[str, int] = {}
    for i in order[start:].tolist():
        first.setdefault(portraits[i].emoji.base, i)
    chosen = list(first.values())[:number]
    records = [source.portrait(portraits[i].style, portraits[i].stem) for i in chosen]
    return Prompts([r.caption for r in records], stack_records(records)[0])


def find_own(clip: MeasuringClip, pictures: Tensor, captions: Sequence[str]) -> Tensor:
    """(n,) bool: whether a picture's own caption is the nearest of all captions."""
    similar = clip.images(pictures) @ clip.texts(captions).T  # (n, n)
    return similar.argmax(1).cpu() == torch.arange(len(captions))


def find_own_picture(drawn: Tensor, truth: Tensor, embed: AlexNetEmbedding) -> Tensor:
    """(n,) bool: whether the nearest true picture by cosine of features, among all of (n, 3, H, W), is its own."""
    a, b = (torch.nn.functional.normalize(embed_parts(embed, x), dim=1) for x in (drawn, truth))
    return (a @ b.T).argmax(1) == torch.arange(len(a), device=a.device)


@dataclass(frozen=True)
class Scenes(Prompts):
    """Scenes of two emoji or more. choices: for each scene and each of its first two emoji, the caption with other
    names in its place, the true one first: n lists of two lists of 1 + OTHERS texts."""

    choices: list[list[list[str]]]


def choose_scenes(source: EmojiSource, number: int, split: Split) -> Scenes:
    """Scenes in combinations that only this split may show."""
    captions, pictures, choices = [], [], []
    emoji, size = source.pack.of("train"), source.size("caption", split)
    for k in range(number):
        rng = numpy_rng("base", "scenes", split, k)
        scene = source.scene("caption", split, int(rng.integers(size)), rng)
        captions.append(scene.caption)
        pictures.append(source.draw(scene))
        others = [[emoji[j].name for j in rng.integers(len(emoji), size=OTHERS)] for _ in range(2)]
        choices.append([replace_name(scene, i, names) for i, names in enumerate(others)])
    return Scenes(captions, to_float(torch.stack(pictures)), choices)


def replace_name(scene: Scene, item: int, names: Sequence[str]) -> list[str]:
    """The caption of a scene, and the captions with each of `names` in place of one emoji's."""
    phrase, noun = scene.items[item].phrase, scene.items[item].portrait.noun
    return [scene.caption, *(scene.caption.replace(phrase, phrase.replace(noun, name)) for name in names)]


def find_both(clip: MeasuringClip, pictures: Tensor, scenes: Scenes) -> Tensor:
    """(n,) bool: whether each of a scene's first two emoji is told from OTHERS names in its place."""
    found = []
    for feature, both in zip(clip.images(pictures), scenes.choices, strict=True):
        found.append(all(int((clip.texts(texts) @ feature).argmax()) == 0 for texts in both))
    return torch.tensor(found)


def share(hits: Tensor, name: str) -> Interval:
    """Share of hits with its 95 % interval."""
    return mean_interval(hits.double().cpu().numpy(), numpy_rng("base", name))


def compare_features(pictures: Tensor, truth: Tensor) -> float:
    """Fréchet distance on AlexNet features of two sets of one size; small sets inflate it, so compare at equal n."""
    embed = AlexNetEmbedding().to(pictures.device)
    a, b = (embed_parts(embed, x).cpu().numpy() for x in (pictures, truth))
    return frechet(a, b)


def embed_parts(embed: AlexNetEmbedding, pictures: Tensor) -> Tensor:
    """Features (n, F) of pictures (n, 3, H, W), computed AT_ONCE at a time."""
    return torch.cat([embed(part) for part in pictures.split(AT_ONCE)])


@torch.no_grad()
def draw_captions(painter: Painter, captions: Sequence[str], *key: int | str) -> Tensor:
    """Pictures (n, 3, H, W) in [-1, 1] by text-to-image; `key` decides the noise."""
    denoiser, backbone, drawn = painter.denoiser, painter.denoiser.backbone, []
    for start in range(0, len(captions), AT_ONCE):
        plain = make_condition(backbone, backbone.embed(list(captions[start : start + AT_ONCE])))
        condition = replace(plain, task=torch.full_like(plain.task, denoiser.tasks.index(TASK)))
        noise = torch.randn(plain.source.shape, generator=torch_rng(*key, start)).to(plain.source)
        with torch.autocast(denoiser.device.type, torch.bfloat16):  # as runs are judged
            drawn.append(backbone.decode(painter.draw_latents(condition, noise)).float())
    return torch.cat(drawn)
