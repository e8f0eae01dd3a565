"""Where the published metrics' weights are, or what to download and where to put it. No torch here.

Files: torch hub's cache, `$TORCH_HOME/hub/checkpoints`. CLIP: the Hugging Face cache, or a folder.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.request import urlopen

CLIP = "openai/clip-vit-large-patch14"
CLIP_REVISION = "32bd64288804d66eefd0ccbe215aa642df71cc41"
CLIP_FILES = ("config.json", "model.safetensors", "tokenizer_config.json")
CLIP_EXTRAS = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "preprocessor_config.json")
INCEPTION = "inception-2015-12-05.pt"
INCEPTION_URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{INCEPTION}"
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
TRUNKS = {"alex": ("alexnet-owt-7be5be79.pth", "7be5be79"), "vgg": ("vgg16-397923af.pth", "397923af")}
TIMEOUT = 20  # seconds without an answer after which a server counts as unreachable


def offline() -> bool:
    """Whether the user has declared that nothing is to be downloaded."""
    return any(
        os.environ.get(k, "").upper() in ("1", "ON", "YES", "TRUE") for k in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    )


def hub_folder() -> Path:
    """torch.hub.get_dir() / checkpoints."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return Path(os.environ.get("TORCH_HOME", cache / "torch")).expanduser() / "hub" / "checkpoints"


def hugging_face_folder() -> Path:
    """huggingface_hub's cache, found without importing it, which takes seconds."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    home = os.environ.get("HF_HOME", cache / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE", Path(home) / "hub")).expanduser()


def unobtainable_error(missing: Sequence[str]) -> ValueError:
    return ValueError(f"metrics=published: weights are missing and cannot be downloaded here: {'; '.join(missing)}")


class Need(ABC):
    """Weights of one network."""

    @abstractmethod
    def is_here(self) -> bool:
        """Whether they are on this machine."""

    @abstractmethod
    def missing(self) -> str:
        """What to download from where, and where to put it."""

    @abstractmethod
    def obtain(self) -> Path:
        """Their place, after a download if need be. OSError or ValueError where that fails."""


@dataclass(frozen=True)
class File(Need):
    """key: the option that gives another place. path: that place, None for the cache. sha256: of its beginning."""

    key: str
    name: str
    url: str
    sha256: str
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.path is not None and not self.path.is_file():
            raise ValueError(f"{self.key}={self.path}: no such file; expected {self.name} from {self.url}")

    @property
    def place(self) -> Path:
        return hub_folder() / self.name if self.path is None else self.path

    def is_here(self) -> bool:
        return self.place.is_file()

    def missing(self) -> str:
        return f"{self.url} -> {self.place} (or {self.key}=<path>)"

    def genuine(self, place: Path) -> bool:
        """Whether a file is the published one, by its checksum."""
        digest = hashlib.sha256()
        with place.open("rb") as f:
            for block in iter(partial(f.read, 2**20), b""):
                digest.update(block)
        return digest.hexdigest().startswith(self.sha256)

    def obtain(self) -> Path:
        if not self.is_here():
            self._download()
        if self.path is None and not self.genuine(self.place):
            raise ValueError(
                f"{self.place}: not the published file (its checksum differs); delete it, or name yours by {self.key}"
            )
        return self.place

    def _download(self) -> None:
        self.place.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.place.with_name(f".{self.name}.{os.getpid()}.tmp")
        try:
            with urlopen(self.url, timeout=TIMEOUT) as response, temporary.open("wb") as f:
                for block in iter(partial(response.read, 2**20), b""):
                    f.write(block)
            temporary.replace(self.place)
        finally:
            temporary.unlink(missing_ok=True)


def inception(folder: str | None) -> File:
    path = None if folder is None else Path(folder).expanduser() / INCEPTION
    return File("metrics.inception", INCEPTION, INCEPTION_URL, INCEPTION_SHA256, path)


def trunk(net: str, path: str | None) -> File:
    name, sha256 = TRUNKS[net]
    given = None if path is None else Path(path).expanduser()
    return File("metrics.lpips_weights", name, f"https://download.pytorch.org/models/{name}", sha256, given)


@dataclass(frozen=True)
class Clip(Need):
    """weights: a folder in transformers format, or a repository of the hub at a revision."""

    weights: str
    revision: str | None

    def __post_init__(self) -> None:
        given = Path(self.weights).expanduser()
        if self.is_path and not (given / "config.json").is_file():
            raise ValueError(
                f"metrics.clip={self.weights}: no folder with a CLIPModel (expected {', '.join(CLIP_FILES)})"
            )

    @property
    def is_path(self) -> bool:
        """A folder that is there, or what can be no repository: those are `owner/name`."""
        return Path(self.weights).expanduser().is_dir() or self.weights.count("/") != 1 or self.weights[0] in "./~"

    def is_here(self) -> bool:
        return self._find_cached() is not None

    def missing(self) -> str:
        revision = "" if self.revision is None else f" --revision {self.revision}"
        return f"`hf download {self.weights}{revision}` -> the Hugging Face cache (or metrics.clip=<folder>)"

    def obtain(self) -> Path:
        from huggingface_hub import snapshot_download  # slow to import

        files = [*CLIP_FILES, *CLIP_EXTRAS]
        found = self._find_cached()
        return found or Path(snapshot_download(self.weights, revision=self.revision, allow_patterns=files))

    def _find_cached(self) -> Path | None:
        if self.is_path:
            return Path(self.weights).expanduser()
        repository = hugging_face_folder() / f"models--{self.weights.replace('/', '--')}"
        named = repository / "refs" / (self.revision or "main")  # a branch or tag; else the revision is a commit
        commit = named.read_text().strip() if named.is_file() else str(self.revision)
        folder = repository / "snapshots" / commit
        return folder if all((folder / name).exists() for name in CLIP_FILES) else None


def obtain_all(needs: Sequence[Need]) -> list[Path]:
    """Find or download all weights; ValueError in one line that says what to download by hand where that fails."""
    places, failed = [], []
    for need in needs:
        try:
            places.append(need.obtain())
        except OSError as error:  # no connection, no such address, no permission
            failed.append(f"{need.missing()} [{type(error).__name__}]")
    if failed:
        raise unobtainable_error(failed)
    return places
