"""Runs a script of ours as a shell does, but in a fork of this process, which has imported its libraries already.

It has its own arguments, place, environment, outputs, signals and exit code. Starting Python anew costs 10 seconds of
imports a run; it is for what looks at the start itself: what is imported when, what imports read of the environment.
"""

import importlib
import logging
import multiprocessing
import os
import runpy
import subprocess
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TextIO

from mtdiff.data.emoji.source import EmojiSource
from mtdiff.types import SPLITS

ROOT = Path(__file__).parents[2]
PRELOADED = ("mtdiff.runs.execute", "mtdiff.commands.run", "torch._dynamo")  # the last one: by the first optimiser step


@cache
def preload() -> None:
    """What every run needs anew where Python is started anew: modules, and the plan of the shipped set's edits."""
    for name in PRELOADED:
        importlib.import_module(name)
    source = EmojiSource()
    for split in SPLITS:
        source.size("edit", split)


def start_script(
    script: Path | str, *arguments: str, out: Path, err: Path, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> BaseProcess:
    """A process that runs the script, whose path may be relative to the project. What it says goes into files."""
    preload()
    given = (ROOT / script, arguments, out, err, cwd, dict(os.environ if env is None else env))
    process = multiprocessing.get_context("fork").Process(target=become_script, args=given)
    process.start()
    return process


def run_script(
    script: Path | str, *arguments: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, as `subprocess.run(..., capture_output=True, text=True)` does."""
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = start_script(script, *arguments, out=out, err=err, cwd=cwd, env=env)
        process.join()
        assert process.exitcode is not None
        said = (path.read_text(encoding="utf-8", errors="replace") for path in (out, err))
        return subprocess.CompletedProcess([str(script), *arguments], process.exitcode, *said)


def become_script(
    script: Path, arguments: tuple[str, ...], out: Path, err: Path, cwd: Path, env: Mapping[str, str]
) -> None:
    """In the fork: leave behind what tests have set, then be the script."""
    import torch

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.stdout, sys.stderr = redirect(1, out), redirect(2, err)
    torch.set_num_threads(1)  # the pool of threads that the parent may have is not in a fork
    for handler in list(logging.root.handlers):  # pytest's
        logging.root.removeHandler(handler)
    logging.root.setLevel(logging.WARNING)
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    runpy.run_path(str(script), run_name="__main__")


def redirect(number: int, path: Path) -> TextIO:
    """Standard output or error of this process, written to a file; both may go to one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, number)
    os.close(descriptor)
    encoding, errors = os.environ.get("PYTHONIOENCODING", "utf-8"), "strict" if number == 1 else "backslashreplace"
    return open(number, "w", buffering=1, encoding=encoding, errors=errors, closefd=False)
