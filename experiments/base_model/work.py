"""The folder that the stages of pre-training share, and what each of them records there."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import save_image

from base_model.loop import STATE, Budget, Stage, read_state, train_stage
from base_model.records import Records, hash_data
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.files.writing import write_atomically
from mtdiff.provenance import device_name
from mtdiff.types import Split

SIZE = 64


@dataclass(frozen=True)
class Work:
    """The configuration of `configs/pretrain.yaml`, and the folder that all stages write into."""

    config: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        return Path(self.config["work"])

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @cached_property
    def device(self) -> torch.device:
        return torch.device(self.config["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def source(self) -> EmojiSource:
        return EmojiSource(SIZE)

    def records(self, stage: str, splits: Sequence[Split] = ("train",)) -> Records:
        """The measuring CLIP sees other pictures than the one that conditions."""
        return Records(self.source, splits, self.seed + (stage == "measure"), self.config[stage].get("portraits", 0.0))

    def identify(self, stage: str, **others: str) -> dict[str, Any]:
        """What a state of the stage has to have been made with. A nearer or further end is no other configuration."""
        section = dict(self.config[stage])
        section["budget"] = {k: v for k, v in section["budget"].items() if k not in ("steps", "seconds")}
        identity = {**section, "seed": self.seed, "data": hash_data(), **others}
        read_state(self.folder / stage / STATE, identity)  # a mistake is said before anything is computed
        return identity

    def fit(self, name: str, stage: Stage, identity: Mapping[str, Any], sample: Callable[[int], None]) -> None:
        """Train, and note what it took."""
        section = self.config[name]
        spent = train_stage(stage, self.folder / name, Budget(**section["budget"]), identity, sample=sample)
        stage.model.eval()
        pictures = int(spent["steps"]) * section["batch"]
        count = sum(p.numel() for p in stage.model.parameters())
        device = f"{device_name(str(self.device))}, threads: {torch.get_num_threads()}"
        self.note(name, **spent, pictures=pictures, device=device, parameters=count)

    def note(self, name: str, **facts: Any) -> None:
        """Add facts to `facts.json`, which model cards and tables are written from."""
        path = self.folder / "facts.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        known.setdefault(name, {}).update(facts)
        write_atomically(path, json.dumps(known, indent=1) + "\n")

    def show(self, stage: str, sheet: str, *rows: Tensor) -> None:
        """Save a sheet of pictures in [-1, 1], one row for each of `rows`."""
        folder = self.folder / stage / "samples"
        folder.mkdir(parents=True, exist_ok=True)
        save_image(torch.cat(rows).cpu().clamp(-1, 1) / 2 + 0.5, folder / f"{sheet}.png", nrow=len(rows[0]))
