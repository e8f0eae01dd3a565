"""Similarity in the space of a measuring CLIP that no model was trained with.

clip_score                    cos(E(img1), E(txt1))                                   CLIPScore without its factor 2.5
directional_similarity        cos(E(img1) - E(img0), E(txt1) - E(txt0))               InstructPix2Pix, arXiv 2211.09800
directional_image_similarity  cos(E(truth) - E(img0), E(img1) - E(img0))              MTU's inpainting, arXiv 2503.11905

img0 source, img1 output, txt0 txt1 their captions; E gives unit vectors. All in [-1, 1], not times 100.

Letters: B batch, D embedding width, L text tokens.
"""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from mtdiff.files.reading import hide_loading_bars

SHIPPED = "assets/measure_clip"
Preparation = Literal["antialiased", "instruct_pix2pix", "processor"]
NO_DIFFERENCE = 1e-4  # length below which a difference of unit vectors is rounding, and has no direction


def shipped_clip() -> Path:
    """Folder of the measuring CLIP that ships with the package."""
    return Path(str(files("mtdiff").joinpath(SHIPPED)))


def _direction(start: Tensor, end: Tensor) -> Tensor:
    """Unit vector from start to end, (B, D); the zero vector where they are the same."""
    difference = end - start
    length = difference.norm(dim=1, keepdim=True)
    return torch.where(length > NO_DIFFERENCE, difference / length.clamp_min(NO_DIFFERENCE), 0.0)


def clip_score(images: Tensor, texts: Tensor) -> Tensor:
    """Unit features (B, D) of pictures and of texts -> cosine (B,)."""
    return (images * texts).sum(1)


def directional_similarity(img0: Tensor, img1: Tensor, txt0: Tensor, txt1: Tensor) -> Tensor:
    """Unit features (B, D) -> (B,): does the picture change as the caption does? 0 where either does not change."""
    return (_direction(img0, img1) * _direction(txt0, txt1)).sum(1)


def directional_image_similarity(img0: Tensor, truth: Tensor, img1: Tensor) -> Tensor:
    """Unit features (B, D) -> (B,): does the output change as the truth does? 0 where either equals the source."""
    return (_direction(img0, truth) * _direction(img0, img1)).sum(1)


class MeasuringClip(nn.Module):
    """A transformers folder of CLIPModel (safetensors) and CLIPTokenizer, frozen, in float32.

    preparation, of pictures for the model's side (they differ where pictures are larger or not square):
    antialiased       resized straight to it, bicubic with antialiasing
    instruct_pix2pix  the same without antialiasing and clipping, as InstructPix2Pix's script does
    processor         transformers' CLIPImageProcessor: bytes, the shorter edge resized, the centre cut out
    Mean and deviation are those of the folder's `preprocessor_config.json`, else halves, which is [-1, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path, preparation: Preparation = "antialiased") -> None:
        super().__init__()
        if preparation not in get_args(Preparation):
            raise ValueError(f"preparation={preparation!r}: expected one of {', '.join(get_args(Preparation))}")
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder}: expected a folder with a CLIPModel and its tokenizer (no config.json there)")
        try:
            options: Any = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32}
            with hide_loading_bars():
                self.model = CLIPModel.from_pretrained(folder, **options)
            self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder}: no CLIPModel with its tokenizer ({str(error).splitlines()[0]})") from None
        self.model.eval().requires_grad_(False)
        config: Any = self.model.config
        self.side: int = config.vision_config.image_size
        self.length = min(self.tokenizer.model_max_length, config.text_config.max_position_embeddings)
        mean, std = _normalisation(folder)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.preparation = preparation
        edge, square = {"shortest_edge": self.side}, {"height": self.side, "width": self.side}
        self.processor = CLIPImageProcessor(size=edge, crop_size=square, image_mean=mean, image_std=std)

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> unit vectors (B, D)."""
        x = self.prepare(images.to(self.mean))
        return nn.functional.normalize(self.model.get_image_features(pixel_values=x).pooler_output, dim=1)

    def prepare(self, x: Tensor) -> Tensor:
        """Turn pictures (B, 3, H, W) in [-1, 1] into what the model reads, (B, 3, side, side)."""
        if self.preparation == "processor":
            pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
            return self.processor(images=list(pixels), return_tensors="pt").pixel_values.to(self.mean)
        if x.shape[-2:] != (self.side, self.side):
            size, smooth = (self.side, self.side), self.preparation == "antialiased"
            x = nn.functional.interpolate(x, size, mode="bicubic", antialias=smooth, align_corners=False)
            x = x.clamp(-1, 1) if smooth else x
        return ((x + 1) / 2 - self.mean) / self.std

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (B, D); what exceeds the model's length is cut off."""
        options = {"padding": "max_length", "max_length": self.length, "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(list(texts), **options).input_ids.to(self.mean.device)  # (B, L)
        return nn.functional.normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=1)


def is_vit_l14(config: Any) -> bool:
    """Whether a CLIPConfig has the shape of OpenAI's ViT-L/14 at 224 px; LAION's has another activation."""
    vision = config.vision_config
    shape = (vision.patch_size, vision.image_size, vision.hidden_size, vision.num_hidden_layers, vision.hidden_act)
    return shape == (14, 224, 1024, 24, "quick_gelu") and config.projection_dim == 768


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and deviation of each colour for pictures in [0, 1]; halves, which is [-1, 1], where no file says so."""
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    return config.get("image_mean", [0.5] * 3), config.get("image_std", [0.5] * 3)
