"""How scripts end: Ctrl-C while they import, readers that go, encodings that lack letters, one failure in a sweep."""

import json
import os
import pwd
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_script

from mtdiff.commands.build import has_netrc_entry
from mtdiff.commands.run import list_others
from mtdiff.files.writing import find_user_cache
from mtdiff.runs.lock import hold_alone

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(
    path.relative_to(ROOT)
    for path in [*ROOT.glob("experiments/*.py"), *ROOT.glob("experiments/studies/*.py"), ROOT / "analysis/export.py"]
)
# Python runs it before a script: the first import of a heavy module, once ours are there, is interrupted.
INTERRUPT = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are started without

def hook(event, arguments):
    if event == "import" and arguments[0] in ("torch", "yaml", "hydra", "numpy") and "mtdiff.commands" in sys.modules:
        os.kill(os.getpid(), signal.SIGINT)

sys.addaudithook(hook)
"""


def start(script: Path | str, *arguments: str, place: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PYTHONPATH": f"{place}{os.pathsep}{ROOT}", **environment}
    command = [sys.executable, str(ROOT / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=place, env=known, check=False)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
def test_an_interrupt_while_importing_is_one_line(script: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    done = start(script, "run=x", "task=edit", "out=x.png", place=tmp_path)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_reader_that_goes_is_no_mistake() -> None:
    """As with `script --help | head -1`, whatever Python holds back."""
    for unbuffered in ("", "1"):
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "experiments/cost.py"), "--help"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait() == 128 + signal.SIGPIPE
        assert process.stderr.read() == b""
        process.stderr.close()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_letters_that_an_encoding_lacks_never_end_a_script(encoding: str, tmp_path: Path) -> None:
    done = start(
        "experiments/sample.py", "run=läufe/→ 🤖", "task=edit", "out=x.png", place=tmp_path, PYTHONIOENCODING=encoding
    )
    assert done.returncode == 2
    assert re.fullmatch(r"error: run=l.*\\u2192 \\U0001f916: no such folder[^\n]*\n", done.stderr)


def test_a_run_prints_where_letters_are_missing(tmp_path: Path) -> None:
    """Prompts of its data, tables, arrows and bars: all of a run's own output, in letters that ASCII has."""
    small = ["training.steps=1", "training.batch_size=2", "training.workers=0", "training.sample_every=null"]
    small += ["training.validate_every=null", "evaluation.per_task=2", "evaluation.baselines=false", "sampling.steps=1"]
    small += ["trainer.accelerator=cpu", "tasks=[edit]", "method=ia3", f"run_dir={tmp_path}/run"]
    done = run_script("experiments/run.py", *small, cwd=tmp_path, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).isascii()
    assert "done: " in done.stdout


def test_a_sweep_goes_on_after_a_failure_and_says_so(tmp_path: Path) -> None:
    """The second of three folders is held by another process."""
    small = ["training.steps=1", "training.batch_size=2", "training.workers=0", "training.sample_every=null"]
    small += ["training.validate_every=null", "evaluation.per_task=2", "evaluation.baselines=false", "sampling.steps=1"]
    small += ["trainer.accelerator=cpu", "tasks=[edit]", "method=ia3", "progress=false"]
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    with hold_alone(tmp_path / "b"):
        done = run_script("experiments/run.py", "-m", "run_dir=a,b,c", *small, cwd=tmp_path)
    assert "run_dir=a: holds no run but 1 other files, first notes.txt; they stay as they are" in done.stderr
    assert done.returncode == 75, done.stderr
    assert "sweep: 2 of 3 runs are complete\nsweep: exit code 75: " in done.stderr
    for name in ("a", "c"):
        assert json.loads((tmp_path / name / "result.json").read_text())["status"] == "complete"


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    done = run_script("experiments/run.py", "run_dir=refused", "data.size=63", "tasks=[edit]", cwd=tmp_path)
    assert done.returncode == 2
    assert not (tmp_path / "refused").exists()
    with hold_alone(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
    assert (tmp_path / "kept" / "file").exists()


def test_files_of_someone_else_in_a_run_folder_are_named(tmp_path: Path) -> None:
    assert list_others(tmp_path / "none") == []
    (tmp_path / "holiday.jpg").touch()
    (tmp_path / "result.json").touch()
    assert list_others(tmp_path) == ["holiday.jpg"]
    (tmp_path / "config.yaml").touch()
    assert list_others(tmp_path) == []


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "MTDIFF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def find_no_user(number: int) -> None:
        raise KeyError(number)

    monkeypatch.setattr(pwd, "getpwuid", find_no_user)  # as in a container under any user's number
    assert find_user_cache().is_dir()
    assert find_user_cache() == find_user_cache()
    assert not has_netrc_entry({})
