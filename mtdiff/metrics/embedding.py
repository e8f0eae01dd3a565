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
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

SHIPPED = "assets/measure_clip"
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

    Pictures are resized straight to the model's side (bicubic, antialiased, no crop), as InstructPix2Pix's script does.
    They reach the model in [-1, 1], unless the folder's `preprocessor_config.json` names another mean and deviation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        if not (folder / "config.json").is_file():
            raise ValueError(f"{folder}: expected a folder with a CLIPModel and its tokenizer (no config.json there)")
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        self.model.eval().requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        config: Any = self.model.config
        self.side: int = config.vision_config.image_size
        self.length = min(self.tokenizer.model_max_length, config.text_config.max_position_embeddings)
        mean, std = _normalisation(folder)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> unit vectors (B, D)."""
        x = images.to(self.mean)
        if x.shape[-2:] != (self.side, self.side):
            size = (self.side, self.side)
            x = nn.functional.interpolate(x, size, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        x = ((x + 1) / 2 - self.mean) / self.std
        return nn.functional.normalize(self.model.get_image_features(pixel_values=x).pooler_output, dim=1)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (B, D); what exceeds the model's length is cut off."""
        options = {"padding": "max_length", "max_length": self.length, "truncation": True, "return_tensors": "pt"}
        ids = self.tokenizer(list(texts), **options).input_ids.to(self.mean.device)  # (B, L)
        return nn.functional.normalize(self.model.get_text_features(input_ids=ids).pooler_output, dim=1)


def _normalisation(folder: Path) -> tuple[list[float], list[float]]:
    """Mean and deviation of each colour for pictures in [0, 1]; halves, which is [-1, 1], where no file says so."""
    path = folder / "preprocessor_config.json"
    config = json.loads(path.read_text()) if path.is_file() else {}
    return config.get("image_mean", [0.5] * 3), config.get("image_std", [0.5] * 3)
