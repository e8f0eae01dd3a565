"""The study of learning rates: the smallest loss on validation examples, among runs that can be compared."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mtdiff.commands.compose import CONFIGS
from mtdiff.commands.suites import plan_suite
from mtdiff.results.record import Result

rates = importlib.import_module("rates")


def save_run(
    folder: Path, method: str, lr: float, losses: list[float], steps: int = 480, router: float = 0.1, **report: Any
) -> None:
    curves = {f"validation/loss/{k}": {"steps": [240, 480], "values": [9.0, v]} for k, v in enumerate(losses)}
    curves["train/loss/0"] = {"steps": [480], "values": [0.001]}
    config = {"training": {"lr": lr}, "method": {"router_rate": router} if method == "mtu" else {}}
    config["method"]["_target_"] = "mtdiff.methods.mtu.MTU" if method == "mtu" else "baselines.ia3.IA3"
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


def test_methods_of_other_tasks_are_compared_among_themselves(tmp_path: Path) -> None:
    save_run(tmp_path, "mtu", 1e-3, [0.5])
    save_run(tmp_path, "mtu", 3e-3, [0.5])
    for lr in (1e-3, 3e-3):
        save_run(tmp_path, "ia3", lr, [lr, 0.5], steps=120)
    found = rates.compare_rates(one.result for one in rates.find(f"{tmp_path}/*/result.json"))
    assert [row["method"] for row in found] == ["ia3", "ia3", "mtu", "mtu"]


def test_the_best_rates_become_configurations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As Hydra reads them; other rates of groups are not mixed in."""
    for lr, loss in ((1e-3, 0.5), (3e-3, 0.25), (1e-2, 0.4)):
        save_run(tmp_path, "ia3", lr, [loss])
        save_run(tmp_path, "mtu", lr, [loss if lr < 1e-2 else 0.1], router=1.0 if lr < 1e-2 else 0.1)
    rates.main([f"runs={tmp_path}/*/result.json", f"write={tmp_path}/rate"])
    assert {path.name: yaml.safe_load(path.read_text()) for path in (tmp_path / "rate").iterdir()} == {
        "nano_ia3.yaml": {"lr": 3e-3},
        "nano_mtu.yaml": {"lr": 3e-3},
    }
    said = capsys.readouterr().out
    assert "nano_ia3.yaml: 3.0e-3\n" in said
    assert "nano_mtu.yaml: 3.0e-3, at the edge of what was tried; other rates were better with" in said


def test_the_suite_has_every_trained_method() -> None:
    names = {path.stem for path in (CONFIGS / "method").glob("*.yaml")}
    planned = plan_suite("rates", [])
    assert len(planned) == 42
    assert {o.removeprefix("method=") for run in planned for o in run.overrides if o.startswith("method=")} == names


def test_nothing_to_compare_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no complete run with a loss on validation examples"):
        rates.main([f"runs={tmp_path}/*"])
