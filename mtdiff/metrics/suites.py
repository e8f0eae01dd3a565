"""Which networks judge: the shipped ones (`metrics=embedded`) or those of the papers (`metrics=published`).

Constructors are light (no torch) and complain at once about weights that are not there. A row's name says what was
used: `fid`, `kid`, `clip_score`, ... come from the published weights alone; other weights given by path are measured
under names that end in `_custom`, shipped ones under `fd_alexnet` or names that end in `_embedded`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from mtdiff.metrics import weights

if TYPE_CHECKING:
    from mtdiff.metrics.quality import Judge

Net = Literal["alex", "vgg"]
Preparation = Literal["antialiased", "instruct_pix2pix", "processor"]


class Suite(ABC):
    @abstractmethod
    def judge(self) -> "Judge":
        """The judge with its networks in memory, on the CPU; ValueError in one line where a file is missing."""


@dataclass(frozen=True)
class Embedded(Suite):
    """AlexNet and a small CLIP that ship with the package. clip_preparation: see `embedding.MeasuringClip`."""

    clip_preparation: Preparation = "antialiased"

    def __post_init__(self) -> None:
        _one_of("metrics.clip_preparation", self.clip_preparation, Preparation)

    def judge(self) -> "Judge":
        from mtdiff.metrics.alexnet import AlexNetEmbedding, lpips_alex
        from mtdiff.metrics.embedding import MeasuringClip, shipped_clip
        from mtdiff.metrics.judges import Networks, build_judge

        clip = MeasuringClip(shipped_clip(), self.clip_preparation)
        return build_judge(
            Networks(
                lpips_alex(), "lpips_alex", AlexNetEmbedding(), "fd_alexnet", "kid_alexnet", "paired", clip, "_embedded"
            )
        )


@dataclass(frozen=True)
class Published(Suite):
    """Inception under clean-fid's protocol, CLIP ViT-L/14, and LPIPS on full-precision convolutions.

    lpips: the papers seldom say which net; `alex` is the `lpips` package's own default for scores.
    lpips_weights: torchvision's file of that net. inception: the folder of `inception-2015-12-05.pt`.
    clip: a hub repository (pinned by clip_revision) or a folder in transformers format.
    Null paths mean torch hub's cache (TORCH_HOME) and the Hugging Face cache (HF_HOME), downloaded to where they lack.
    clip_preparation: `instruct_pix2pix` resizes straight to 224 px as its script does, `processor` cuts out the centre.
    """

    lpips: Net = "alex"
    lpips_weights: str | None = None
    inception: str | None = None
    clip: str = weights.CLIP
    clip_revision: str | None = weights.CLIP_REVISION
    clip_preparation: Preparation = "instruct_pix2pix"

    def __post_init__(self) -> None:
        _one_of("metrics.lpips", self.lpips, Net)
        _one_of("metrics.clip_preparation", self.clip_preparation, Preparation)
        missing = [need.missing() for need in self.needs if not need.is_here()]
        if missing and weights.offline():
            raise weights.unobtainable_error(missing)

    @property
    def needs(self) -> "tuple[weights.File, weights.File, weights.Clip]":
        return (
            weights.inception(self.inception),
            weights.trunk(self.lpips, self.lpips_weights),
            weights.Clip(self.clip, self.clip_revision),
        )

    def judge(self) -> "Judge":
        from mtdiff.metrics.alexnet import lpips_of
        from mtdiff.metrics.embedding import MeasuringClip, is_vit_l14
        from mtdiff.metrics.inception import InceptionFeatures
        from mtdiff.metrics.judges import Networks, build_judge

        inception, trunk, folder = weights.obtain_all(self.needs)
        fid, kid = ("fid", "kid") if self.needs[0].genuine(inception) else ("fd_custom", "kid_custom")
        perceptual = f"lpips_{self.lpips}" + ("" if self.needs[1].genuine(trunk) else "_custom")
        clip = MeasuringClip(folder, self.clip_preparation)
        suffix = "" if is_vit_l14(clip.model.config) else "_custom"
        net = lpips_of(self.lpips, trunk)
        return build_judge(
            Networks(net, perceptual, InceptionFeatures(inception.parent), fid, kid, "clean_fid", clip, suffix)
        )


def _one_of(key: str, value: object, options: object) -> None:
    if value not in get_args(options):
        raise ValueError(f"{key}={value}: expected one of {', '.join(get_args(options))}")
