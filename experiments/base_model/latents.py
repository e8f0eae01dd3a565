"""Latents and texts of many pictures, encoded once, from which denoisers draw their batches.

Letters: n pictures, B batch, C latent channels, h w latent size, L text tokens, D text width.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from base_model.records import Records, describe_portrait, stack_records
from mtdiff.backbones.latent import LatentBackbone
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
    folder: Path, backbone: LatentBackbone, records: Records, drawn: int, look: Look | None = None
) -> Encoded:
    """Every portrait and `drawn` further records, read from `folder` where they have been encoded already."""
    path = folder / "encoded.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows = list(encode_parts(backbone, records, drawn, look))
        columns = {name: torch.cat([tensors[name] for tensors, _ in rows]).contiguous() for name in rows[0][0]}
        captions = [caption for _, part in rows for caption in part]
        (folder / "captions.json").write_text(json.dumps(captions, indent=0))
        long = [describe_portrait(records.source.pack, portrait) for portrait in records.portraits]
        save_file({**columns, **embed_texts(backbone, [*captions, *long, ""])}, path)
    found = load_file(path)
    extra = {name.removeprefix("extra."): value for name, value in found.items() if name.startswith("extra.")}
    return Encoded(found["latents"], Text(found["tokens"], extra), len(records.portraits), found.get("looks"))


@torch.no_grad()
def encode_parts(
    backbone: LatentBackbone, records: Records, drawn: int, look: Look | None
) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
    """Latents and looks of AT_ONCE pictures or fewer, float16, and their captions: portraits, then other records."""
    known, device = len(records.portraits), backbone.vae.device
    for start in range(0, known + drawn, AT_ONCE):
        numbers = range(start, min(start + AT_ONCE, known + drawn))
        part = [records.portrait(i) if i < known else records.draw("latents", i - known) for i in numbers]
        pictures, captions = stack_records(part)
        with torch.autocast(device.type, torch.bfloat16):
            made = {"latents": backbone.encode(pictures.to(device))}
            if look is not None:
                made["looks"] = look(pictures.to(device))
        yield {name: value.half().cpu() for name, value in made.items()}, captions


def embed_texts(backbone: LatentBackbone, texts: Sequence[str]) -> dict[str, Tensor]:
    """`tokens` (n, L, D) float16, and `extra.<name>` for whatever else the backbone reads."""
    parts = [backbone.embed(texts[start : start + AT_ONCE]) for start in range(0, len(texts), AT_ONCE)]
    made = {"tokens": torch.cat([part.tokens.half().cpu() for part in parts])}
    return made | {f"extra.{k}": torch.cat([part.extra[k].cpu() for part in parts]) for k in parts[0].extra}
