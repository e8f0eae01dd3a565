"""Latents and text embeddings that were computed once, found again by what they were computed from.

A picture is known by a hash of the very numbers that the autoencoder would see, a prompt by a hash of its letters. So
any task, data set, seed or crop may use the same folder: what is there is right, and what is not there is computed.

    folder/cache.json                    fingerprint of the encoders; another one is refused
    folder/probe.safetensors             what they made of a fixed picture and fixed prompts
    folder/pictures-*.safetensors        hashes (n, 2), latents (n, C, h, w)
    folder/texts-*.safetensors           hashes (n, 2), tokens (n, L, D) and whatever else the backbone reads

Numbers are float32, or bfloat16 where that loses nothing. The user's cache, `open_user_cache`, fills by itself.

Letters: B batch, C latent channels, H W pixels, h w latent size, L text tokens, D text width, P numbers of a picture.
"""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mtdiff.backbones.base import Backbone
from mtdiff.errors import RunError
from mtdiff.files.writing import find_user_cache, write_atomically
from mtdiff.rng import torch_rng

log = logging.getLogger(__name__)
FORMAT = "mtdiff cache 1"
Kind = Literal["pictures", "texts"]
Hash = tuple[int, int]
PROMPTS = ("", "a small red house, seen from above")
TOLERANCE = 1e-3
"""Of the probe, relative to its largest number: machines differ by rounding, other encoders by far more."""
LIMIT = 2**30
"""Bytes of one kind from which a cache stops growing by itself."""
BUFFER = 2**28
"""Bytes of encodings that are gathered before a file is written."""


# Hashes


def hash_pictures(images: Tensor) -> list[Hash]:
    """Hash (B, 3, H, W) float32 to 128 bits: two sums of P 32-bit numbers times random 64-bit factors, modulo 2^64.

    Made where the pictures are. Two pictures share a hash with a probability below 2^-60 (universal hashing).
    """
    numbers = images.detach().float().contiguous().view(torch.int32).flatten(1)  # (B, P)
    one, two = _hash_factors(numbers.shape[1]).to(images.device)
    sums = torch.stack([torch.stack([(row * f).sum() for f in (one, two)]) for row in numbers.long()])  # (B, 2)
    return [(int(a), int(b)) for a, b in sums.tolist()]


@lru_cache(maxsize=4)
def _hash_factors(count: int) -> Tensor:
    """Draw the factors of the hash, (2, P) int64, always the same."""
    return torch.randint(-(2**63), 2**63 - 1, (2, count), generator=torch_rng("picture hash"))


def hash_text(text: str) -> Hash:
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little", signed=True), int.from_bytes(digest[8:], "little", signed=True)


# Fingerprint


def make_fingerprint(backbone: Backbone, precision: str) -> dict[str, Any]:
    """Say what the encoders are: all of their weights, and how they are run. The denoiser has no part in it."""
    digest = hashlib.sha256()
    for name, value in backbone.state_dict().items():
        if not name.startswith("denoiser."):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    shape = list(backbone.latent_shape)
    return {"weights": digest.hexdigest(), "size": backbone.size, "latents": shape, "precision": precision}


def make_probe(backbone: Backbone) -> dict[str, Tensor]:
    """Encode a fixed picture and fixed prompts, which tells what weights do not, such as the tokenizer."""
    picture = torch.rand(1, 3, backbone.size, backbone.size, generator=torch_rng("probe")) * 2 - 1
    text = backbone.embed(PROMPTS)
    return {"latents": backbone.encode(picture), "tokens": text.tokens, **text.extra}


def probes_agree(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two probes agree within TOLERANCE."""
    if set(one) != set(other) or any(one[k].shape != other[k].shape for k in one):
        return False
    return all(float((one[k] - other[k]).abs().max()) <= TOLERANCE * float(one[k].abs().max()) for k in one)


# The folder


class Shelf:
    """Encodings of one kind: rows by hash, read where they lie in memory-mapped files; new ones are gathered."""

    def __init__(self, folder: Path, kind: Kind, *, lenient: bool = False) -> None:
        """lenient: a broken file is left out with a warning; else it is a ValueError."""
        self.folder, self.kind, self.lenient, self.size = folder, kind, lenient, 0
        self.places: dict[Hash, tuple[int, int]] = {}
        self._files: list[Any] = []
        self._new: dict[Hash, dict[str, Tensor]] = {}
        for path in sorted(folder.glob(f"{kind}-*.safetensors")):
            self._open(path)

    def __len__(self) -> int:
        return len(self.places) + len(self._new)

    def __contains__(self, key: Hash) -> bool:
        return key in self.places or key in self._new

    @property
    def full(self) -> bool:
        return self.size >= LIMIT

    def get(self, key: Hash) -> dict[str, Tensor] | None:
        """Return the tensors of one row as float32, or None where it is not there."""
        if key in self._new:
            return {name: v.float() for name, v in self._new[key].items()}
        if key not in self.places:
            return None
        file, row = self.places[key]
        names = (n for n in self._files[file].keys() if n != "hashes")  # noqa: SIM118 (not a mapping)
        return {name: self._files[file].get_slice(name)[row].float() for name in names}

    def add(self, key: Hash, row: Mapping[str, Tensor]) -> None:
        self._new[key] = {k: shorten(v.detach().cpu()) for k, v in row.items()}
        size = sum(v.nbytes for v in self._new[key].values())
        self.size += size
        if size * len(self._new) >= BUFFER:
            self.write()

    def write(self) -> None:
        """Put what was gathered into a file that is whole or absent. RunError where the disk refuses."""
        if not self._new:
            return
        rows = list(self._new.values())
        tensors = {k: torch.stack([row[k] for row in rows]) for k in rows[0]}
        path = self.folder / f"{self.kind}-{uuid.uuid4().hex}.safetensors"
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            save_file({**tensors, "hashes": torch.tensor(list(self._new))}, part)
            part.replace(path)
        except (OSError, SafetensorError) as error:
            part.unlink(missing_ok=True)
            raise RunError(
                f"training.cache={self.folder}: cannot be written ({error}); the {len(self.places)} {self.kind} "
                "written before are kept: make room and give the same command again"
            ) from None
        self._new, self.size = {}, self.size - sum(v.nbytes for row in rows for v in row.values())
        self._open(path)

    def _open(self, path: Path) -> None:
        try:
            file = safe_open(path, "pt")
            hashes = file.get_tensor("hashes").tolist()
        except (OSError, SafetensorError) as error:
            broken = f"training.cache={self.folder}: {path.name} is broken ({error}); delete it"
            if not self.lenient:
                raise ValueError(broken) from None
            log.warning("%s; what it held is encoded anew", broken)
            return
        self.size += path.stat().st_size
        self._files.append(file)
        self.places |= {(a, b): (len(self._files) - 1, i) for i, (a, b) in enumerate(hashes)}


def shorten(values: Tensor) -> Tensor:
    """A copy as bfloat16 where every value is one, as encoders leave them under that precision; else as float32."""
    short = values.bfloat16()
    return short if torch.equal(short.float(), values.float()) else values.float().clone()


class Cache:
    """A folder of encodings that belongs to the encoders of one backbone, run in one precision."""

    def __init__(
        self, folder: str | Path, backbone: Backbone, precision: str, create: bool = False, lenient: bool = False
    ) -> None:
        """create: make it where it is missing. ValueError where it belongs to other encoders.

        lenient: see `Shelf`.
        """
        self.folder = Path(folder)
        if precision not in PRECISIONS:
            raise ValueError(
                f"trainer.precision={precision}: with training.cache expected one of {', '.join(PRECISIONS)}"
            )
        about, answers = make_fingerprint(backbone, precision), make_probe(backbone)
        if create and not (self.folder / "cache.json").exists():
            self._create(about, answers)
        self._compare(about, answers)
        self.shelves: dict[Kind, Shelf] = {kind: Shelf(self.folder, kind, lenient=lenient) for kind in get_args(Kind)}

    def _create(self, about: Mapping[str, Any], answers: Mapping[str, Tensor]) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({k: v.contiguous() for k, v in answers.items()}, self.folder / "probe.safetensors")
            write_atomically(self.folder / "cache.json", json.dumps({"format": FORMAT, **about}, indent=1) + "\n")
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                (self.folder / "probe.safetensors").unlink()  # a part of it, on a full disk
            raise ValueError(f"training.cache={self.folder}: cannot be written ({error})") from None

    def _compare(self, about: Mapping[str, Any], answers: Mapping[str, Tensor]) -> None:
        try:
            there = json.loads((self.folder / "cache.json").read_text())
            known = load_file(self.folder / "probe.safetensors")
        except FileNotFoundError:
            made = "make one with: python experiments/cache.py and the options of the run"
            raise ValueError(f"training.cache={self.folder}: no cache there; {made}") from None
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"training.cache={self.folder}: cannot be read ({error})") from None
        for key, value in {"format": FORMAT, **about}.items():
            if not isinstance(there, dict) or there.get(key) != value:
                raise ValueError(
                    f"training.cache={self.folder}: made by other encoders: {key} is not {value}; use another folder"
                )
        if not probes_agree(known, answers):
            raise ValueError(
                f"training.cache={self.folder}: made by other encoders: same weights, but other answers "
                "(tokenizer, scaling?); use another folder"
            )

    def write(self) -> None:
        for shelf in self.shelves.values():
            shelf.write()


def open_user_cache(backbone: Backbone, precision: str) -> Cache | None:
    """The user's own cache of these encoders, made where it is missing; None, with a warning, where it cannot be."""
    about = json.dumps(make_fingerprint(backbone, precision), sort_keys=True)
    folder = find_user_cache() / f"encodings-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
    try:
        return Cache(folder, backbone, precision, create=True, lenient=True)
    except ValueError as error:
        log.warning("%s; everything is encoded when it is needed", error)
        return None


PRECISIONS: Sequence[str] = ("32-true", "32", "bf16-mixed", "16-mixed")
"""In the others the encoders themselves are converted, after the fingerprint was taken."""
