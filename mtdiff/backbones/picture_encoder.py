"""A frozen picture encoder, CLIP's picture tower (Radford et al., arXiv 2103.00020): reference pictures become tokens.

It stands beside a base, no part of its weights: what it gives is looked up where the same picture comes again.

Letters: B batch, H W pixels, S side that the tower reads, R tokens of a picture (one of the whole, one a patch), D_r
their width.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mtdiff.backbones.hub import reason as explain
from mtdiff.backbones.stable_diffusion import SHIPPED, shipped_folder
from mtdiff.files.reading import hide_loading_bars
from mtdiff.provenance import hash_weights
from mtdiff.types import REFERENCE

PART = "image_encoder"  # the folder of the tower in a pipeline
PREPARED = "preprocessor_config.json"
LIMIT = 2**28
"""Bytes of tokens that are kept."""
TOGETHER = 4
"""Pictures that are encoded at once: the last bits of a token may depend on how many are encoded with it."""
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class PictureEncoder:
    """name: `nano` (shipped), a folder in transformers' format or one of a pipeline with `image_encoder/` in it, or a
    repository of the hub (pin it with `revision`). It is read on first use; its shape from its configuration alone.

    Copies share it: nothing of it ever changes but what it has looked up.
    """

    def __init__(self, name: str = SHIPPED, revision: str | None = None) -> None:
        self.name, self.revision = name, revision
        self._config: CLIPVisionConfig | None = None
        self._tower: CLIPVisionModelWithProjection | None = None
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()
        self._mean, self._std = torch.empty(0), torch.empty(0)

    def __deepcopy__(self, memo: Any) -> "PictureEncoder":
        return self

    @property
    def shape(self) -> tuple[int, int]:
        """(R, D_r)."""
        if self._config is None:
            with self._explain():
                self._config = CLIPVisionConfig.from_pretrained(self.where, **self._options())
        config = self._config
        return (config.image_size // config.patch_size) ** 2 + 1, config.hidden_size

    @property
    def digest(self) -> str:
        """The hash of its weights."""
        return hash_weights(self._open(torch.device("cpu")).parameters())

    def encode(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] -> tokens (B, R, D_r), float32, without gradient."""
        keys = [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.detach().float().cpu()]
        missing = [i for i, key in enumerate(keys) if key not in self._kept]
        new = dict(zip([keys[i] for i in missing], self._compute(images[missing]), strict=True)) if missing else {}
        rows = [new[key] if key in new else self._kept[key] for key in keys]
        for key in keys:
            self._keep(key, new)
        return torch.stack([row.to(images.device) for row in rows])

    def _keep(self, key: bytes, new: Mapping[bytes, Tensor]) -> None:
        """Put a picture's tokens last in line, and leave out the first in line where there are too many."""
        if key in new:
            self._kept[key] = new[key].cpu()
        if key in self._kept:
            self._kept.move_to_end(key)
        tokens, width = self.shape
        while len(self._kept) > max(1, LIMIT // (4 * tokens * width)):
            self._kept.popitem(last=False)

    @torch.no_grad()
    def _compute(self, images: Tensor) -> Tensor:
        """(B, R, D_r) in full precision, TOGETHER at a time."""
        tower, found = self._open(images.device), []
        with torch.autocast(images.device.type, enabled=False):
            pixels = self.prepare(images.float())
            for part in pixels.split(TOGETHER):
                filled = torch.cat([part, part[:1].expand(TOGETHER - len(part), -1, -1, -1)])
                found.append(tower(pixel_values=filled).last_hidden_state[: len(part)])
        return torch.cat(found)

    def prepare(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [-1, 1] as the tower reads them, (B, 3, S, S): whole, and in its own colours."""
        side = self._open(images.device).config.image_size
        if images.shape[-2:] != (side, side):
            images = nn.functional.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
        return ((images + 1) / 2 - self._mean.to(images)) / self._std.to(images)

    # Reading

    @property
    def where(self) -> str:
        """The folder, or the name of the repository."""
        if self.name == SHIPPED:
            return str(shipped_folder() / PART)
        inside = Path(self.name).expanduser() / PART
        return str(inside if inside.is_dir() else Path(self.name).expanduser() if self.is_folder else self.name)

    @property
    def is_folder(self) -> bool:
        return Path(self.name).expanduser().is_dir() or not REPOSITORY.fullmatch(self.name)

    def _options(self) -> dict[str, Any]:
        return {} if self.is_folder or self.name == SHIPPED else {"revision": self.revision}

    def _open(self, device: torch.device) -> CLIPVisionModelWithProjection:
        if self._tower is None:
            options: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, **self._options()}
            with self._explain(), hide_loading_bars():
                tower = CLIPVisionModelWithProjection.from_pretrained(self.where, **options)
                mean, std = self._read_colours()
            self._tower = tower.eval().requires_grad_(False)
            self._mean, self._std = (torch.tensor(v).view(1, 3, 1, 1) for v in (mean, std))
        if self._tower.device != device:
            self._tower.to(device)
        return self._tower

    def _read_colours(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of each colour for pictures in [0, 1]: CLIP's own where no file says others."""
        path = Path(self.where) / PREPARED
        if self.name != SHIPPED and not self.is_folder:
            try:
                path = Path(hf_hub_download(self.name, PREPARED, revision=self.revision))
            except OSError:  # a repository without such a file
                path = Path()
        told = json.loads(path.read_text()) if path.is_file() else {}
        return list(told.get("image_mean", OPENAI_CLIP_MEAN)), list(told.get("image_std", OPENAI_CLIP_STD))

    def _explain(self) -> "Explained":
        return Explained(self.name, self.revision)


class Explained:
    """One line in place of whatever goes wrong while an encoder is read."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision = name, revision

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError | ValueError):
            why = explain(error, self.name, self.revision)
            expected = f"expected {SHIPPED}, a folder of a CLIP picture tower, or a repository of the hub"
            raise ValueError(f"method.encoder={self.name!r}: could not be read ({why}); {expected}") from None


def encode_references(
    encoder: PictureEncoder, names: tuple[str, ...], extra: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Tokens (B, R, D_r) of the named references that a batch has, by the same keys; zeros where a sample has none.

    extra: `Batch.extra`, pictures (B, 3, H, W) in [-1, 1], zeros where there is none.
    """
    found = {}
    for key in (REFERENCE + name for name in names if REFERENCE + name in extra):
        pictures = extra[key]
        given = pictures.flatten(1).any(1).nonzero().flatten()
        tokens = torch.zeros(len(pictures), *encoder.shape, device=pictures.device)
        if len(given):
            tokens[given] = encoder.encode(pictures[given])
        found[key] = tokens
    return found
