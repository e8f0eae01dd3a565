"""The study of quality against time, on a small run at a small setting."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from run_folders import make_run
from whole_runs import ROOT, whole_run

WORDS = ["block every 3", "light until 500", "to the rival", "rival: "]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "studies"))
    return importlib.import_module("frontier")


def test_every_way_stands_beside_fewer_steps(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = tmp_path / "run", tmp_path / "frontier.json"
    whole_run(run, "sampling.steps=4", "method=ia3", "tasks=[edit]")
    monkeypatch.setattr(study, "EVERY", (3,))
    monkeypatch.setattr(study, "UNTIL", (500,))
    monkeypatch.setattr(study, "SHARES", (0.5,))
    study.main([f"run={run}", f"light={run}", f"lighter={run}", "per_task=2", "repeats=2", f"out={out}"])
    said = capsys.readouterr().out
    assert all(word in said for word in WORDS)
    found = {entry["name"]: entry for entry in json.loads(out.read_text())["settings"]}
    levels = [f"{level} every 3" for level in ("block", "layer", "unit")]
    assert list(found) == ["whole", "2 steps", *levels, "light until 500", f"run {run}"]
    for name, entry in found.items():
        ratio = entry["time_ratio"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"]
        assert entry["fewer_steps"] in ("whole", "2 steps")
        assert {row["task"] for row in entry["rows"]} == {"edit"}
        apart = [row["difference"] for row in entry["against_whole"] if row["difference"] is not None]
        assert apart
        same = name in ("whole", "light until 500", f"run {run}")
        assert all((difference["value"] == 0) == same for difference in apart)
    assert found["whole"]["flops_ratio"] == 1
    assert found["2 steps"]["flops_ratio"] == pytest.approx(0.5)
    assert found["layer every 3"]["flops_ratio"] < found["block every 3"]["flops_ratio"] < 1


def test_mistakes_get_one_line(study: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^run: has to be given, as run=\.\.\.$"):
        study.main([])
    with pytest.raises(ValueError, match=r"^repeats=0: expected a whole number of at least 1$"):
        study.main([f"run={make_run(tmp_path / 'run')}", "repeats=0"])
