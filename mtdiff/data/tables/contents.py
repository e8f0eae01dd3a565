"""What lies in a folder of pictures, found in one walk; hidden files and what a Mac leaves behind are skipped."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mtdiff.data.tables.metadata import METADATA
from mtdiff.errors import shown
from mtdiff.files.pictures import ENDINGS

ARCHIVES = (".tar", ".tgz", ".gz", ".zip", ".7z", ".rar")
SHOWN = 3
"""So many names are listed in a message."""


@dataclass
class Contents:
    """Relative POSIX paths. links: pictures that are links, with where they lead, None for out of the folder."""

    metadata: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    links: dict[str, str | None] = field(default_factory=dict)

    def add(self, root: Path, path: str) -> None:
        """Sort one file into its kind."""
        name = PurePosixPath(path)
        ending = name.suffix.lower()
        if name.name in METADATA:
            self.metadata.append(path)
        elif ending in ENDINGS:
            self.pictures.append(path)
            if (root / path).is_symlink():
                self.links[path] = follow_link(root, path)
        else:
            (self.archives if ending in ARCHIVES else self.others).append(path)

    def left_out(self) -> list[str]:
        """What no data set is made of, a phrase for each kind."""
        phrases = []
        if self.others:
            phrases.append(f"files that are no pictures ({count_endings(self.others)})")
        if self.archives:
            phrases.append(f"archives, which are not unpacked ({list_some(self.archives)})")
        if self.folders:
            phrases.append(f"links to folders ({list_some(self.folders)})")
        return phrases


def list_contents(root: Path) -> Contents:
    """Everything below a folder but what `datasets` skips: names that begin with a dot or two underscores."""
    contents = Contents()
    for folder, below, files in os.walk(root):
        base = Path(folder).relative_to(root)
        below[:] = sorted(name for name in below if not is_hidden(name))
        contents.folders += [(base / name).as_posix() for name in below if (Path(folder) / name).is_symlink()]
        for name in sorted(files):
            if not is_hidden(name):
                contents.add(root, (base / name).as_posix())
    return contents


def is_hidden(name: str) -> bool:
    """Of a file or folder, by the rule of `datasets`: `.thumbnails`, `._0.jpg` and `__MACOSX` are."""
    return name.startswith((".", "__"))


def follow_link(root: Path, path: str) -> str | None:
    """Where a link leads, below the folder or in the hub's cache that the folder is a snapshot of; None elsewhere."""
    place, base = (root / path).resolve(), root.resolve()
    if place.is_relative_to(base):
        return place.relative_to(base).as_posix()
    blobs = find_blobs(base)
    return path if blobs is not None and place.is_relative_to(blobs) else None


def find_blobs(root: Path) -> Path | None:
    """Where the pictures of a snapshot in a cache of the Hugging Face hub lie: `blobs/` beside `snapshots/`."""
    for folder in (root, *root.parents):
        if folder.name == "snapshots" and (folder.parent / "blobs").is_dir():
            return folder.parent / "blobs"
    return None


def count_endings(names: Iterable[str]) -> str:
    """The endings of files, the most frequent first: `24 .heic, 1 without ending`."""
    counts = Counter(PurePosixPath(name).suffix.lower() or "without ending" for name in names)
    return ", ".join(f"{number} {shown(ending)}" for ending, number in counts.most_common())


def list_some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shown(name) for name in names[:SHOWN]) + more
