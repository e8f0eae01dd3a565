"""A judge from its networks: which measure answers to which name in a task's list of metrics."""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from mtdiff.metrics.embedding import MeasuringClip
from mtdiff.metrics.joint import AtMaskedShare, LabelAccuracy
from mtdiff.metrics.label_maps import MeanIoU, PixelAccuracy
from mtdiff.metrics.measures import (
    CaptionSimilarity,
    Directional,
    DirectionalImage,
    Frechet,
    Kernel,
    Measure,
    Pairwise,
    Perceptual,
)
from mtdiff.metrics.pictures import RangeMistake, ciede2000, psnr, ssim
from mtdiff.metrics.quality import Judge
from mtdiff.metrics.references import CHOICES, ImageSimilarity, OwnAmong, ReferenceSimilarity, StyleAccuracy
from mtdiff.types import LABEL_TIMES, MASKED_SHARES


@dataclass(frozen=True)
class Networks:
    """Networks with the names that their numbers have in a result.

    lpips: (B, 3, H, W) twice -> (B, 1, 1, 1). features: (B, 3, H, W) -> (B, D), for `frechet` and `kernel`.
    clip_suffix: after `clip_score`, `directional_similarity` and `directional_image_similarity`.
    """

    lpips: nn.Module
    perceptual: str
    features: nn.Module
    frechet: str
    kernel: str
    kernel_estimate: Literal["paired", "clean_fid"]
    clip: MeasuringClip
    clip_suffix: str


def build_judge(networks: Networks, *, range_mistake: RangeMistake = "warn") -> Judge:
    """Build the judge that knows every metric that the package's tasks name."""
    n = networks
    measures: dict[str, Measure] = {
        "psnr": Pairwise("psnr", psnr),
        "ssim": Pairwise("ssim", ssim),
        "colour": Pairwise("ciede2000", ciede2000),
        "perceptual": Perceptual(n.perceptual, n.lpips),
        "miou": MeanIoU("miou"),
        "pixel_accuracy": PixelAccuracy("pixel_accuracy"),
        "caption": CaptionSimilarity(f"clip_score{n.clip_suffix}", n.clip),
        "image": ImageSimilarity(f"clip_image_similarity{n.clip_suffix}", n.clip),
        "reference_image": ReferenceSimilarity(f"clip_reference_similarity{n.clip_suffix}", n.clip),
        "own": OwnAmong(f"own_of_{CHOICES}{n.clip_suffix}", n.clip),
        "style": StyleAccuracy(f"style_accuracy{n.clip_suffix}", n.clip),
        "directional": Directional(f"directional_similarity{n.clip_suffix}", n.clip),
        "directional_image": DirectionalImage(f"directional_image_similarity{n.clip_suffix}", n.clip),
        "frechet": Frechet(n.frechet, n.features),
        "kernel": Kernel(n.kernel, n.features, n.kernel_estimate),
    }
    restored = {"perceptual": Perceptual(n.perceptual, n.lpips), "psnr": Pairwise("psnr", psnr)}
    for level in MASKED_SHARES:
        measures |= {f"{name}_masked_{level}": AtMaskedShare(measure, level) for name, measure in restored.items()}
    measures |= {f"label_{level}": LabelAccuracy(level) for level in LABEL_TIMES} | {"label": LabelAccuracy()}
    return Judge(measures, range_mistake=range_mistake)
