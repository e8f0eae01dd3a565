"""The study of learning rates: the smallest loss on validation examples, among runs that can be compared."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from mtdiff.results.record import Result

rates = importlib.import_module("rates")


def save_run(folder: Path, method: str, lr: float, losses: list[float], steps: int = 480, **report: Any) -> None:
    curves = {f"validation/loss/{k}": {"steps": [240, 480], "values": [9.0, v]} for k, v in enumerate(losses)}
    curves["train/loss/0"] = {"steps": [480], "values": [0.001]}
    config = {"training": {"lr": lr}, "method": {"router_rate": 0.1} if method == "mtu" else {}}
    given = {"config": config, "steps": steps, "method_report": {"curves": curves, **report}}
    path = folder / f"{method}-{lr}-{steps}" / "result.json"
    path.parent.mkdir()
    Result(method, "nano", "emoji", ["edit"], 0, **given).save(path)


def test_best_rate_first_and_other_budgets_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_run(tmp_path, "mtu", 1e-3, [0.5, 0.25], router_alive=0.75)
    save_run(tmp_path, "mtu", 3e-3, [0.125, 0.25], router_alive=0.5)
    save_run(tmp_path, "ia3", 1e-2, [0.5, 0.5])
    save_run(tmp_path, "ia3", 1e-1, [0.1, 0.1], steps=960)
    out = tmp_path / "rates.json"
    rates.main([f"runs={tmp_path}/*/result.json", f"out={out}"])
    rows = json.loads(out.read_text())["rows"]
    assert [(row["method"], row["training.lr"], row["loss"]) for row in rows] == [
        ("ia3", 1e-2, 1.0),
        ("mtu", 3e-3, 0.375),
        ("mtu", 1e-3, 0.75),
    ]
    assert [row["router_alive"] for row in rows] == [None, 0.5, 0.75]
    said = capsys.readouterr()
    assert "0.3750  mtu       lr=0.003 router_rate=0.1" in said.out
    assert "1 of 4 left out" in said.err


def test_nothing_to_compare_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no complete run with a loss on validation examples"):
        rates.main([f"runs={tmp_path}/*"])
