"""Data sets of the Hugging Face hub, or saved by `datasets`, through that library; never their code.

Downloaded and memory-mapped once, then addressed by row. What is read without a download is shards (`shards`), of which
there are some on the hub too: `hf://datasets/owner/name`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mtdiff.data.tables.table import SPLIT_NAMES, Row, Table, missing_extra
from mtdiff.files.pictures import Unreadable
from mtdiff.types import SPLITS, Split

SLICE = re.compile(r"(?P<name>[\w.-]+)(\[(?P<first>\d*):(?P<last>\d*)\])?")


@dataclass(frozen=True)
class Part:
    """Rows first to last (excluded) of one of the data set's own splits; null: from the beginning, to the end."""

    name: str
    first: int | None
    last: int | None

    def __str__(self) -> str:
        first, last = ("" if n is None else n for n in (self.first, self.last))
        return self.name if self.first is self.last is None else f"{self.name}[{first}:{last}]"

    @classmethod
    def parse(cls, text: str) -> "Part":
        match = SLICE.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r}: expected a split or a part of one, such as train or train[:1000]")
        first, last = (int(match[k]) if match[k] else None for k in ("first", "last"))
        return cls(match["name"], first, last)


class Hub(Table):
    """repository: `owner/name`, or a local folder (written by save_to_disk, or with files that `datasets` reads).

    revision: a commit, tag or branch. config: one of the repository's configurations.
    splits: {split: own split, or a part such as `train[:1000]`}; null: those with the usual names.
    held_out: share of rows taken from training for validation and for test, where `splits` does not name them.
    """

    def __init__(
        self,
        repository: str,
        revision: str | None = None,
        config: str | None = None,
        splits: Mapping[str, str] | None = None,
        columns: Mapping[str, str] | None = None,
        held_out: float = 0.05,
    ) -> None:
        super().__init__(repository, columns)
        for split in splits or {}:
            if split not in SPLITS:
                raise ValueError(f"{repository}: splits.{split}: expected one of {', '.join(SPLITS)}")
        parts = {s: Part.parse(text) for s, text in (splits or {}).items()}
        data = load_splits(repository, revision, config)
        self._parts = {s: self._part(data, s, parts) for s in SPLITS}
        self._rows = self._divide(held_out)
        self._roots = _roots(repository)

    def size(self, split: Split) -> int:
        return len(self._rows[split])

    def names(self, split: Split) -> Sequence[str]:
        return self._data(split).column_names

    def read_row(self, split: Split, index: int) -> Row:
        number = int(self._rows[split][index])
        cells = {k: self._cell(v) for k, v in self._data(split)[number].items()}
        return Row(f"{'train' if self._parts[split] is None else split}/{number}", cells)

    def _data(self, split: Split) -> Any:
        own = self._parts[split]
        return self._parts["train"] if own is None else own

    def _part(self, data: Mapping[str, Any], split: Split, chosen: Mapping[str, Part]) -> Any:
        """Rows of a split with pictures left undecoded, or None where the data set has none."""
        usual = next((Part(n, None, None) for n in data if n.lower() in SPLIT_NAMES[split]), None)
        part = chosen.get(split) if chosen else usual
        if part is None:
            return None
        if part.name not in data:
            raise ValueError(f"{self.name}: no split {part.name!r}; expected one of {', '.join(data)}")
        rows = data[part.name]
        places = range(*slice(part.first, part.last).indices(len(rows)))
        if not places:
            raise ValueError(f"{self.name}: splits.{split}={part}: no rows; {part.name} has {len(rows)}")
        return rows.select(places)

    def _divide(self, share: float) -> dict[Split, Any]:
        """Split -> numbers of its rows."""
        if self._parts["train"] is None:
            raise ValueError(f"{self.name}: no training split; name one with splits: {{train: ...}}")
        wanted: list[Split] = [s for s in ("validation", "test") if self._parts[s] is None]
        division = np.array(self.hold_out([str(i) for i in range(len(self._parts["train"]))], share, wanted))
        own = {s: np.arange(len(p)) for s, p in self._parts.items() if p is not None}
        return {s: own[s] if s in own and s != "train" else np.flatnonzero(division == s) for s in SPLITS}

    def _cell(self, value: Any) -> Any:
        """An undecoded picture {bytes, path} as bytes; its file must be the data set's own."""
        if not isinstance(value, dict) or set(value) != {"bytes", "path"}:
            return value
        if value["bytes"] is not None or value["path"] is None:
            return value["bytes"]
        path = Path(value["path"]).resolve()
        if not any(path.is_relative_to(root) for root in self._roots):
            raise Unreadable(f"{value['path']}: lies outside of the data set")
        try:
            return path.read_bytes()
        except OSError as error:
            raise Unreadable(f"{path.name}: {error.strerror or error}") from None


# Loading


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def load_splits(repository: str, revision: str | None, config: str | None) -> dict[str, Any]:
    """Split -> rows, pictures undecoded; every failure in one line."""
    datasets = _library()
    with _explain_failure(repository, revision):
        if is_saved(Path(repository)):
            data = datasets.load_from_disk(repository)
        else:
            data = datasets.load_dataset(repository, config, revision=revision)
    splits = data if isinstance(data, dict) else {"train": data}
    return {name: leave_undecoded(rows) for name, rows in splits.items()}


def leave_undecoded(rows: Any) -> Any:
    """Pictures as {bytes, path}."""
    datasets = _library()
    for name, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise missing_extra("datasets") from None
    return datasets


@contextmanager
def _explain_failure(repository: str, revision: str | None) -> Iterator[None]:
    """One line for what `datasets` and the hub's client raise."""
    where = repository if revision is None else f"{repository}@{revision}"
    try:
        yield
    except (_library().exceptions.DatasetsError, OSError, ValueError, RuntimeError) as error:
        line = " ".join(str(error).split())[:200] or type(error).__name__
        hint = "expected a repository, revision and configuration that exist and that you may read"
        if isinstance(error, ConnectionError):
            hint = "is there a network? A local folder needs none"
        raise ValueError(f"{where}: cannot be read ({line}); {hint}") from None


def _roots(repository: str) -> list[Path]:
    """Folders whose files belong to the data set: its own, and where `datasets` keeps downloads."""
    from huggingface_hub.constants import HF_HUB_CACHE

    config = _library().config
    kept = [HF_HUB_CACHE, config.HF_DATASETS_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH]
    local = [repository] if Path(repository).is_dir() else []
    return [Path(p).resolve() for p in (*local, *kept)]
