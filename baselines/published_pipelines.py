"""Published models as they are, through diffusers, for the examples and the judge of our comparison.

Each draws at the size it was trained for: sources are enlarged to it, and drawings shrunk to the examples' size
(bicubic, antialiased). The noise of an example depends on the seed and its key alone, as everywhere here. Scales and
steps default to the models' own documentation, so two models of one table may use different ones; results record them.

What they cannot do is left as it is: the inpainting model removes nothing by instruction, so of such examples, whose
mask is empty, it returns the source as its autoencoder renders it.

Letters: B batch, H W pixels of an example, S pixels of the model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from mtdiff.rng import torch_rng
from mtdiff.types import Batch

UNCHECKED: Mapping[str, Any] = {"safety_checker": None, "requires_safety_checker": False}


class PublishedPipeline(ABC):
    """kind: the diffusers class. parts: those of it that are not read but given.

    weights: a hub repository at a revision, or a folder in diffusers format. steps: of the model's own sampler.
    size: side of its pictures in pixels, null for what it was trained for.
    """

    kind: ClassVar[str]
    parts: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, weights: str, revision: str | None, steps: int, size: int | None) -> None:
        if steps < 1:
            raise ValueError(f"published.steps={steps}: expected at least 1")
        self.steps, self.weights = steps, weights
        self.pipeline = read(self.kind, weights, revision, self.parts)
        if size is not None and (size < 8 or size % 8):
            raise ValueError(f"published.size={size}: expected a multiple of 8")
        self.size = size or self.own_size()

    def own_size(self) -> int:
        """Side of the pictures that the denoiser was trained for."""
        return int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)

    @property
    def denoiser(self) -> nn.Module:
        return self.pipeline.unet

    def to(self, device: str) -> "PublishedPipeline":
        self.pipeline.to(device)
        return self

    @torch.no_grad()
    def draw(self, batch: Batch, seed: int) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] on the CPU."""
        noise = [torch_rng(seed, "noise", key) for key in batch.key]
        how = {"num_inference_steps": self.steps, "generator": noise, "output_type": "pt"}
        images = self.call(batch, how)
        return resize_images(images.float().cpu(), batch.target.shape[-1]).clamp(0, 1) * 2 - 1

    @abstractmethod
    def call(self, batch: Batch, how: dict[str, Any]) -> Tensor:
        """Run the pipeline: pictures (B, 3, S, S) in [0, 1]."""


def read(kind: str, weights: str, revision: str | None, parts: Mapping[str, Any]) -> Any:
    """A diffusers pipeline in float32, some of its parts replaced; ValueError in one line where there is none."""
    try:
        pipeline = getattr(diffusers, kind).from_pretrained(weights, revision=revision, **parts)
    except (OSError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"published.weights={weights}: no {kind} could be read there ({reason}); expected a folder in diffusers "
            f"format, or a repository that `hf download` has put into the Hugging Face cache"
        ) from None
    if not isinstance(pipeline, DiffusionPipeline):
        raise ValueError(f"published.weights={weights}: holds a {type(pipeline).__name__}, expected a {kind}")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def resize_images(images: Tensor, side: int) -> Tensor:
    """(B, C, h, w) -> (B, C, side, side), bicubic and antialiased."""
    if images.shape[-2:] == (side, side):
        return images
    return nn.functional.interpolate(images, (side, side), mode="bicubic", antialias=True, align_corners=False)


def to_unit(images: Tensor, side: int) -> Tensor:
    """Pictures in [-1, 1] -> (B, 3, side, side) in [0, 1]."""
    return (resize_images(images, side).clamp(-1, 1) + 1) / 2


class InstructPix2Pix(PublishedPipeline):
    """Brooks et al., arXiv 2211.09800: edits by instruction, which is the prompt."""

    kind = "StableDiffusionInstructPix2PixPipeline"
    parts = UNCHECKED

    def __init__(
        self,
        weights: str = "timbrooks/instruct-pix2pix",
        revision: str | None = None,
        steps: int = 100,
        size: int | None = None,
        text: float = 7.5,
        image: float = 1.5,
    ) -> None:
        super().__init__(weights, revision, steps, size)
        self.scales = {"guidance_scale": text, "image_guidance_scale": image}

    def call(self, batch: Batch, how: dict[str, Any]) -> Tensor:
        return self.pipeline(batch.prompt, image=to_unit(batch.source, self.size), **self.scales, **how).images


class UpscalerX4(PublishedPipeline):
    """Stable Diffusion x4 upscaler (Rombach et al., arXiv 2112.10752, and its model card); the prompt is empty.

    scale: of the task; its source is a small picture enlarged by so much, and is shrunk by it again. The drawing is
    4 times as large as that. noise_level: of the noise added to it, the pipeline's own default.
    """

    kind = "StableDiffusionUpscalePipeline"

    def __init__(
        self,
        weights: str = "stabilityai/stable-diffusion-x4-upscaler",
        revision: str | None = None,
        steps: int = 75,
        scale: int = 4,
        text: float = 9.0,
        noise_level: int = 20,
    ) -> None:
        if scale not in (2, 4):
            raise ValueError(f"published.scale={scale}: expected 2 or 4")
        super().__init__(weights, revision, steps, None)
        self.scale, self.options = scale, {"guidance_scale": text, "noise_level": noise_level}

    def call(self, batch: Batch, how: dict[str, Any]) -> Tensor:
        small = to_unit(batch.source, batch.source.shape[-1] // self.scale)
        return self.pipeline(batch.prompt, image=small, **self.options, **how).images


class Inpainting(PublishedPipeline):
    """Stable Diffusion inpainting (Rombach et al., arXiv 2112.10752): fills holes as the prompt says."""

    kind = "StableDiffusionInpaintPipeline"
    parts = UNCHECKED

    def __init__(
        self,
        weights: str = "stable-diffusion-v1-5/stable-diffusion-inpainting",
        revision: str | None = None,
        steps: int = 50,
        size: int | None = None,
        text: float = 7.5,
    ) -> None:
        super().__init__(weights, revision, steps, size)
        self.text = text

    def call(self, batch: Batch, how: dict[str, Any]) -> Tensor:
        mask = nn.functional.interpolate(batch.mask, (self.size, self.size), mode="nearest")
        given = {"image": to_unit(batch.source, self.size), "mask_image": mask, "strength": 1.0}
        sides = {"height": self.size, "width": self.size}
        return self.pipeline(batch.prompt, **given, **sides, guidance_scale=self.text, **how).images


class TextToImage(PublishedPipeline):
    """Stable Diffusion itself: what the base draws at its own size and with its own sampler."""

    kind = "StableDiffusionPipeline"
    parts = UNCHECKED

    def __init__(
        self,
        weights: str = "stable-diffusion-v1-5/stable-diffusion-v1-5",
        revision: str | None = None,
        steps: int = 50,
        size: int | None = None,
        text: float = 7.5,
    ) -> None:
        super().__init__(weights, revision, steps, size)
        self.text = text

    def call(self, batch: Batch, how: dict[str, Any]) -> Tensor:
        sides = {"height": self.size, "width": self.size}
        return self.pipeline(batch.prompt, **sides, guidance_scale=self.text, **how).images


class UniDiffuser(PublishedPipeline):
    """Bao et al., arXiv 2303.06555: one transformer for pictures and texts together; here from text to picture.

    diffusers keeps it among its deprecated pipelines, last supported in 0.33.
    """

    kind = "UniDiffuserPipeline"

    def __init__(
        self,
        weights: str = "thu-ml/unidiffuser-v1",
        revision: str | None = None,
        steps: int = 50,
        text: float = 8.0,
    ) -> None:
        super().__init__(weights, revision, steps, None)
        self.text = text
        self.pipeline.set_text_to_image_mode()

    def call(self, batch: Batch, how: dict[str, Any]) -> Tensor:
        return self.pipeline(batch.prompt, guidance_scale=self.text, **how).images
