"""Pictures of run folders that someone else made: no link is followed, nothing large is decoded, no name leads out."""

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from little_study import TASKS, pictures, result
from PIL import Image

from mtdiff.results.samples import find_grid, read_grid

ROOT = Path(__file__).parents[2]
MEMORY = 2**30


def collect(folder: Path) -> subprocess.CompletedProcess[str]:
    options = [f"runs={folder}/runs/*/result.json", f"out={folder}/results", "study=main"]
    limit = lambda: resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))  # noqa: E731
    script = [sys.executable, str(ROOT / "experiments/collect.py"), *options]
    return subprocess.run(script, capture_output=True, text=True, check=False, preexec_fn=limit)


def test_foreign_pictures_are_left_out_and_said(tmp_path: Path) -> None:
    samples, secret = tmp_path / "runs/foreign/samples", tmp_path / "private.png"
    pictures(samples, TASKS, 20)
    Image.new("RGB", (56, 56), "red").save(secret)
    linked, huge, damaged, *whole = TASKS
    (samples / f"{linked}.png").unlink()
    (samples / f"{linked}.png").symlink_to(secret)
    Image.new("1", (13_000, 13_000)).save(samples / f"{huge}.png")
    (samples / f"{damaged}.png").write_bytes((samples / f"{damaged}.png").read_bytes()[:100])
    odd = {"tasks": [*TASKS, "../../private"], "method_report": {}}
    replace(result("mtu", 0), **odd).save(tmp_path / "runs/foreign/result.json")
    result("mtu", 1).save(tmp_path / "runs/other/result.json")
    (tmp_path / "runs/other/samples").symlink_to(samples)

    done = collect(tmp_path)

    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    for what in ("leads out", "13000 x 13000 pixels", "damaged picture", "tasks=../../private"):
        assert what in done.stderr
    names = sorted(path.name for path in (tmp_path / "results/main").iterdir())
    assert names == sorted(["foreign.json", "other.json", *(f"foreign-{task}.webp" for task in whole)])


def test_a_second_run_of_one_name_is_left_out(tmp_path: Path) -> None:
    for folder in ("runs/a/one", "runs/b/one"):
        result("mtu", 0).save(tmp_path / folder / "result.json")
    script = [sys.executable, str(ROOT / "experiments/collect.py"), f"runs={tmp_path}/runs/*/*/result.json"]
    done = subprocess.run([*script, f"out={tmp_path}/out", "study=x"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "another run is called one too" in done.stderr
    assert [path.name for path in (tmp_path / "out/x").iterdir()] == ["one.json"]


@pytest.mark.parametrize("task", ["", "..", "a/b", "a\nb", "x" * 101, "-x", "ä"])
def test_names_are_of_a_closed_alphabet(task: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a name of letters"):
        find_grid(tmp_path / "result.json", task)


def test_a_picture_is_read_whole(tmp_path: Path) -> None:
    pictures(tmp_path / "samples", ["edit"], 20)
    place = find_grid(tmp_path / "result.json", "edit")
    assert place is not None
    assert read_grid(place).size == (74, 56)
    assert find_grid(tmp_path / "result.json", "inpaint") is None
