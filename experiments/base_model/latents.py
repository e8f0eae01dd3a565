"""Latents and texts of many pictures, encoded once, from which denoisers draw their batches.

Letters: n pictures, B batch, C latent channels, h w latent size, L text tokens, D text width.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from base_model.records import Records, describe_portrait, stack_records
from mtdiff.backbones.latent import LatentBackbone
from mtdiff.files.writing import write_atomically
from mtdiff.types import Text

AT_ONCE = 64
Look = Callable[[Tensor], Tensor]  # pictures (B, 3, H, W) in [-1, 1] -> features, B first


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """What a denoiser's batch is made of.

    portraits: share of canonical portraits. dropout: share of empty captions. long: share of long captions among
    portraits.
    """

    portraits: float
    dropout: float = 0.1
    long: float = 0.0


@dataclass(frozen=True)
class Encoded:
    """n pictures, of which the first `portraits` are the canonical ones, each drawing once.

    latents: (n, C, h, w) float16. text: rows of the n captions, then of the portraits' long ones, then of the empty
    one, in float16. looks: features of the n pictures, where a denoiser is aligned with them.
    """

    latents: Tensor
    text: Text
    portraits: int
    looks: Tensor | None = None

    def draw_rows(self, size: int, mixture: Mixture, rng: np.random.Generator) -> tuple[Tensor, Text]:
        """Places (B,) among the n pictures, and the text of each, float32."""
        every, plain = len(self.latents), rng.random(size) < mixture.portraits
        index = np.where(plain, rng.integers(self.portraits, size=size), rng.integers(self.portraits, every, size=size))
        dropped, longer = rng.random(size) < mixture.dropout, plain & (rng.random(size) < mixture.long)
        row = torch.from_numpy(np.where(dropped, len(self.text.tokens) - 1, index + every * longer))
        extra = {name: value[row] for name, value in self.text.extra.items()}
        return torch.from_numpy(index), Text(self.text.tokens[row].float(), extra)


def encode_records(
    folder: Path,
    backbone: LatentBackbone,
    records: Records,
    drawn: int,
    made_by: Mapping[str, Any],
    look: Look | None = None,
) -> Encoded:
    """Every portrait and `drawn` further records, read from `folder` where they have been encoded already.

    made_by: what the latents and texts depend on (data, encoder, text encoder, number, seed, picture tower).
    """
    known, drawing = len(records.portraits), functools.partial(draw_parts, records, drawn)
    pictures = keep_tensors(folder, "pictures", made_by, lambda: encode_parts(backbone, drawing(), look))
    kind = {**made_by, "backbone": type(backbone).__name__}
    texts = keep_tensors(folder, "texts", kind, lambda: embed_texts(backbone, list_captions(records, drawing())))
    extra = {name.removeprefix("extra."): value for name, value in texts.items() if name.startswith("extra.")}
    return Encoded(pictures["latents"], Text(texts["tokens"], extra), known, pictures.get("looks"))


def keep_tensors(
    folder: Path, kind: str, made_by: Mapping[str, Any], make: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The tensors of a file that is named by what they depend on; made once."""
    folder.mkdir(parents=True, exist_ok=True)
    key = hashlib.sha256(json.dumps(dict(made_by), sort_keys=True).encode()).hexdigest()[:16]
    path = folder / f"{kind}-{key}.safetensors"
    if not path.exists():
        write_atomically(path, save(make()))
    return load_file(path)


def draw_parts(records: Records, drawn: int) -> Iterator[tuple[Tensor, list[str]]]:
    """AT_ONCE pictures or fewer at a time, and their captions: every portrait, then `drawn` other records."""
    known = len(records.portraits)
    for start in range(0, known + drawn, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, known + drawn))
        yield stack_records([records.portrait(i) if i < known else records.draw("latents", i - known) for i in numbers])


@torch.no_grad()
def encode_parts(
    backbone: LatentBackbone, parts: Iterable[tuple[Tensor, Sequence[str]]], look: Look | None
) -> dict[str, Tensor]:
    """`latents` (n, C, h, w) and, where asked for, `looks`, both float16."""
    device, latents, looks = backbone.vae.device, [], []
    for pictures, _ in parts:
        with torch.autocast(device.type, torch.bfloat16):
            latents.append(backbone.encode(pictures.to(device)).half().cpu())
            if look is not None:
                looks.append(look(pictures.to(device)).half().cpu())
    made = {"latents": torch.cat(latents).contiguous()}
    return made if look is None else made | {"looks": torch.cat(looks).contiguous()}


def list_captions(records: Records, parts: Iterable[tuple[Tensor, Sequence[str]]]) -> list[str]:
    """The captions of all pictures, then the portraits' long ones, then the empty one."""
    long = [describe_portrait(records.source.pack, portrait) for portrait in records.portraits]
    return [*(caption for _, captions in parts for caption in captions), *long, ""]


def embed_texts(backbone: LatentBackbone, texts: Sequence[str]) -> dict[str, Tensor]:
    """`tokens` (n, L, D) float16, and `extra.<name>` for whatever else the backbone reads."""
    parts = [backbone.embed(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
    made = {"tokens": torch.cat([part.tokens.half().cpu() for part in parts]).contiguous()}
    return made | {f"extra.{k}": torch.cat([part.extra[k].cpu() for part in parts]) for k in parts[0].extra}
