"""Files of run folders and of the user's cache, which are written whole and without following links. No torch here.

How files are read, which may be someone else's: `mtdiff.files.reading`.
"""

import errno
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePath
from typing import BinaryIO

from mtdiff.errors import shown

MEGABYTE = 2**20
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
NO_LINK, NO_WAIT, FOLDER = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"))
BY_HANDLE = NO_LINK != 0 and {os.open, os.mkdir, os.rename, os.unlink} <= os.supports_dir_fd
LINKED = (errno.ELOOP, errno.EMLINK, errno.ENXIO)  # of opening a link (EMLINK on BSD), or a pipe that nobody reads
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID")  # of this process, as launchers tell it
UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # of file systems that cannot be told to flush


def find_user_cache() -> Path:
    """The folder for what can be made again: MTDIFF_CACHE, else `mtdiff` in XDG_CACHE_HOME or ~/.cache.

    Without a home folder, as a bare user in a container is, it is one that this process alone has.
    """
    try:
        if own := os.environ.get("MTDIFF_CACHE"):
            return Path(own).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "mtdiff"
    except RuntimeError:  # Path.home
        return make_passing_folder()


@cache
def make_passing_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="mtdiff-"))


def first_process() -> bool:
    """Whether this is rank 0 of a run, told by its environment as the launchers set it."""
    ranks = (os.environ.get(name) for name in RANKS)
    return next((rank for rank in ranks if rank is not None), "0") == "0"


@dataclass(frozen=True)
class Folder:
    """A folder that is written to by its handle, so that no link in it is followed, not even one that is set meanwhile.

    handle: a descriptor of the folder; None on systems without such descriptors, where each path is looked at instead.
    """

    path: Path
    handle: int | None

    def open(self, name: str, flags: int) -> int:
        """A descriptor of an ordinary file without a second name. OSError where something else has this name."""
        path = self.path / name
        if self.handle is None and path.is_symlink():
            raise refuse_link(path)
        try:
            place = path if self.handle is None else name
            descriptor = os.open(place, flags | NO_LINK | NO_WAIT, 0o666, dir_fd=self.handle)
        except OSError as error:
            raise refuse_link(path) if error.errno in LINKED else error from None
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            os.close(descriptor)
            raise refuse_link(path)
        return descriptor

    @contextmanager
    def create(self, name: str) -> Iterator[BinaryIO]:
        """A new file, in place of what a killed process left under this name; removed again where writing fails."""
        self.remove(name)
        try:
            with os.fdopen(self.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
                yield file
                file.flush()
                flush(file.fileno())
        except BaseException:
            self.remove(name)
            raise

    def rename(self, name: str, to: str) -> None:
        old, new = (name, to) if self.handle is not None else (self.path / name, self.path / to)
        os.replace(old, new, src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name if self.handle is not None else self.path / name, dir_fd=self.handle)


@contextmanager
def hold_folder(root: Path, below: PurePath | str = "") -> Iterator[Folder]:
    """The folder `below` the root of a run, made where it is missing. OSError where a part of `below` is a link.

    The root itself is the user's choice: it may be a link, or lie behind one.
    """
    root.mkdir(parents=True, exist_ok=True)
    path, handle = root, os.open(root, os.O_RDONLY | FOLDER) if BY_HANDLE else None
    try:
        for part in PurePath(below).parts:
            path = path / part
            if part == ".." or (handle is None and path.is_symlink()):
                raise refuse_link(path)
            with suppress(FileExistsError):
                os.mkdir(path if handle is None else part, dir_fd=handle)
            if handle is not None:
                handle = _enter(handle, part, path)
        yield Folder(path, handle)
    finally:
        if handle is not None:
            os.close(handle)


def _enter(handle: int, name: str, path: Path) -> int:
    """The handle of a folder inside of another, whose own handle is closed."""
    try:
        inner = os.open(name, os.O_RDONLY | FOLDER | NO_LINK, dir_fd=handle)
    except OSError as error:
        raise refuse_link(path) if error.errno in (*LINKED, errno.ENOTDIR) else error from None
    os.close(handle)
    return inner


def refuse_link(path: Path) -> OSError:
    return OSError(errno.ELOOP, "is a link or no ordinary file, nothing is written there", str(path))


def flush(descriptor: int) -> None:
    """What was written reaches the disk, on file systems that can be asked to."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


@contextmanager
def replace_file(path: Path, root: Path | None = None) -> Iterator[BinaryIO]:
    """A file to be written beside `path`, flushed and renamed at the end: a reader sees the old file or the new one.

    root: the run folder, below which no folder may be a link; None: the file's own folder.
    """
    root = path.parent if root is None else root
    with hold_folder(root, path.parent.relative_to(root)) as folder:
        temporary = f".{path.name}.{os.getpid()}.tmp"
        with folder.create(temporary) as file:
            yield file
        folder.rename(temporary, path.name)


def write_atomically(path: Path, content: str | bytes, root: Path | None = None) -> None:
    """Write a whole file or nothing, see `replace_file`."""
    with replace_file(path, root) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def append_text(path: Path, text: str) -> None:
    """Write at the end of a file of a run folder."""
    with hold_folder(path.parent) as folder:
        descriptor = folder.open(path.name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text.encode())


def check_writable(key: str, path: str | Path, endings: Iterable[str] = ()) -> Path:
    """The path of a file that can be written there, in a folder that exists."""
    path, endings = Path(path), tuple(endings)
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{key}={shown(path)}: expected a file name that ends in one of {', '.join(endings)}")
    if path.is_dir():
        raise ValueError(f"{key}={shown(path)}: is a folder, expected a file name")
    if not path.parent.is_dir():
        raise ValueError(f"{key}={shown(path)}: there is no folder {shown(path.parent)}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{key}={shown(path)}: cannot be written")
    return path


def check_folder(key: str, path: str | Path) -> Path:
    """A path at which a folder can be made: nothing above it is a file or closed to writing."""
    path = Path(path)
    above = next((p for p in (path, *path.parents) if p.exists()), Path())
    if not above.is_dir():
        raise ValueError(f"{key}={shown(path)}: {shown(above)} is a file, expected a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise ValueError(f"{key}={shown(path)}: {shown(above)} cannot be written")
    return path
