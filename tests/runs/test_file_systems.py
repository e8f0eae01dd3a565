"""File systems that lack something: each command works with one warning, or ends in one line, leaving nothing half."""

import contextlib
import errno
import fcntl
import importlib
import logging
import os
import resource
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cache
import collect
import convert_data
import export
import pytest
import sample
import table
from little_sets import captioned
from little_study import result
from run_folders import make_run

from baselines.trivial import trivial
from mtdiff.commands.compose import compose_run, composer
from mtdiff.commands.run import run_once
from mtdiff.errors import RunError
from mtdiff.runs.lock import hold_alone
from mtdiff.training.checkpoint_files import KEPT, WholeFiles, is_whole, list_checkpoints, prune_checkpoints

NOWHERE = "/proc/nowhere"  # where nobody can write, not even root


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_run(tmp_path_factory.mktemp("runs") / "run")
    result("mtu", 0).save(folder / "result.json")
    return folder


@contextlib.contextmanager
def nearly_full(most: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: a true error of the system, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def start(run_dir: str) -> None:
    with composer():
        composed = compose_run([f"run_dir={run_dir}"])
    run_once(*composed, trivial)


def test_checkpoints_without_flushing_of_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As on some network and FUSE file systems: they are whole, pruned, and one warning tells."""
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder, files = tmp_path / "run" / "checkpoints", WholeFiles()
    for step in range(1, 5):
        files.save_checkpoint({"step": step}, folder / f"step-{step:08d}.ckpt")
        assert files.failure is None
        prune_checkpoints(folder)
    kept = list_checkpoints(folder)
    assert [int(path.name.split("-")[1]) for path in kept] == [4, 3]
    assert len(list(folder.iterdir())) == KEPT
    assert all(map(is_whole, kept))
    assert len([r for r in caplog.records if "cannot be flushed" in r.message]) == 1


def test_a_run_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def lockf(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", lockf)
    with caplog.at_level(logging.WARNING), hold_alone(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    (record,) = caplog.records
    assert "cannot be locked" in record.message


COMMANDS: dict[str, Any] = {
    "run.py": lambda run, out: start(out),
    "export.py": lambda run, out: export.main([f"run={run}", "task=edit", f"out={out}"]),
    "sample.py": lambda run, out: sample.main([f"run={run}", "task=text_to_image", "prompt=x", f"out={out}/a.png"]),
    "table.py": lambda run, out: table.main([f"results={run}/result.json", f"out={out}/table"]),
    "collect.py": lambda run, out: collect.main([f"runs={run}/result.json", f"out={out}", "study=x"]),
    "report.py": lambda run, out: importlib.import_module("analysis.report").main(
        [f"results={run}/result.json", f"out={out}/page"]
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_where_nobody_can_write(command: str, run: Path) -> None:
    with pytest.raises((ValueError, OSError, RunError), match=r"\A[^\n]*nowhere[^\n]*\Z"):
        COMMANDS[command](run, NOWHERE)


@pytest.mark.parametrize("command", ["export.py", "table.py", "collect.py"])
def test_a_full_disk_is_one_line(command: str, run: Path, tmp_path: Path) -> None:
    with nearly_full(200), pytest.raises((ValueError, OSError, RunError), match=r"\A[^\n]+\Z") as error:
        COMMANDS[command](run, str(tmp_path / "out"))
    half = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not half or "what is there is not whole" in str(error.value)


def test_a_full_disk_leaves_no_part_of_a_shard(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 6)
    options = ["data=folder", f"data.caption={folder}", f"out={tmp_path / 'shards'}", "need=caption"]
    with nearly_full(1000), pytest.raises(ValueError, match=r"\Aout=[^\n]+cannot be written[^\n]+\Z"):
        convert_data.main(options)
    assert not [path for path in (tmp_path / "shards").rglob("*") if path.is_file()]


def test_a_full_disk_leaves_no_part_of_a_cache(tmp_path: Path) -> None:
    options = [f"training.cache={tmp_path / 'cache'}", "tasks=[edit]", "examples=2", "progress=false"]
    with nearly_full(1000), pytest.raises(ValueError, match=r"\Atraining.cache=[^\n]+cannot be written[^\n]+\Z"):
        cache.main(options)
    assert not list((tmp_path / "cache").iterdir())
