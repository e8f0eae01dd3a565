"""A run's folder, held by one process at a time. No torch here."""

import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mtdiff.errors import InUse, reason, shown
from mtdiff.files.writing import first_process, hold_folder

log = logging.getLogger(__name__)


@contextmanager
def hold_alone(folder: Path) -> Iterator[None]:
    """Make the folder and hold it alone while the context lasts. InUse names the process that has it.

    A POSIX record lock: the kernel drops it with its process, however that dies, and loader workers do not inherit it.
    """
    if not first_process():
        yield
        return
    absent = not folder.exists()
    try:
        descriptor = take_lock(folder)
    except OSError as error:
        raise ValueError(f"run_dir={folder}: cannot be written ({reason(error)})") from None
    try:
        yield
    finally:
        (folder / ".lock").unlink(missing_ok=True)
        os.close(descriptor)
        if absent:  # a run that was refused leaves no folder
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def wait_for(folder: Path) -> None:
    """Return when no process holds the folder."""
    while True:
        try:
            with hold_alone(folder):
                return
        except InUse:
            time.sleep(0.2)


def take_lock(folder: Path) -> int:
    """Descriptor of the folder's lock file, with our name in it."""
    import fcntl  # only where runs are made: result files are read on any system

    path = folder / ".lock"
    while True:
        with hold_folder(folder) as held:
            descriptor = held.open(".lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            owner = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise InUse(f"run_dir={folder}: in use by {shown(owner)}") from None
        except OSError as error:  # a file system without locks
            log.warning("run_dir=%s: cannot be locked (%s); see to it that no other run uses it", folder, reason(error))
            return descriptor
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.lstat()):
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return descriptor
        os.close(descriptor)  # its last holder removed it meanwhile
