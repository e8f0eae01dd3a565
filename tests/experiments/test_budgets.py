"""The study of budgets from end to end on tiny supernets, and what is concluded from its file."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
from little_ways import BUDGETS
from small_runs import SIDE, save_small_run
from whole_runs import ROOT, SMALL

from mtdiff.commands.suites import plan_suite
from mtdiff.results import budget_study as results
from mtdiff.runs import module_costs
from mtdiff.runs.load import load_run

SUPERNET = {"_target_": "baselines.budgeted.Budgeted", "width": 8, "budgets": [1.0, 0.5]}
METHODS = {
    "full": {"_target_": "baselines.finetune.Finetune"},
    "supernet": SUPERNET,
    "uniform": {**SUPERNET, "choice": "uniform"},
    "alone": {**SUPERNET, "budgets": [0.5]},
}


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "studies"))
    return importlib.import_module("budgets")


def test_every_network_stands_beside_its_rivals(
    study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module_costs, "DRIFT", float("inf"))
    monkeypatch.setattr(module_costs, "REPEATS", 2)
    runs, out = ",".join(str(save_small_run(tmp_path / name, method)) for name, method in METHODS.items()), "out.json"
    options = ["per_task=2", "repeats=2", "limits=2", "candidates=1", *SMALL, f"data.size={SIDE}"]
    study.main([f"run={runs}", f"out={tmp_path / out}", *options])
    content = json.loads((tmp_path / out).read_text())
    supernet = "Budgeted budgets=[1.0,0.5] width=8"
    names = [f"{supernet} at 1", f"{supernet} at 0.5", f"{supernet.replace(' width', ' choice=uniform width')} at 1"]
    assert [entry["name"] for entry in content["networks"]][:3] == names
    assert "Budgeted budgets=[0.5] width=8" in [entry["name"] for entry in content["networks"]]
    found = results.build_budget_study(content)
    assert found.first == supernet
    fewer = [entry.name for entry in found.entries if entry.of == results.FEWER]
    assert fewer[0] == "whole"
    assert all(name.endswith(" steps") for name in fewer[1:])
    for entry in found.entries[: -len(fewer)]:
        assert all(cost["time"] > 0 for cost in entry.costs.values())
        assert all(cost["flops"] <= entry.budget + 0.02 for cost in entry.costs.values())
        assert [place.first is None for place in entry.places] == [entry.of == supernet] * len(entry.places)
        assert any(place.fewer is not None for place in entry.places)
    assert len(content["promises"]["apart"]) == 2
    assert "The assembler that sees the task against its rivals" in capsys.readouterr().out

    denoiser = load_run(tmp_path / "supernet").painter.denoiser  # what is kept is what the loaded run chooses
    assembler = denoiser.backbone.denoiser.get_submodule("assembler")
    for number, task in enumerate(("edit", "super_resolution")):
        assert content["kept"][task]["1"] == [1] * len(content["modules"])
        assert content["kept"][task]["0.5"] == [int(on) for on in assembler.propose(number, 0.5)[0]]


def test_the_suite_has_the_rivals_of_a_supernet() -> None:
    planned = [" ".join(run.overrides) for run in plan_suite("budgets", ["training.steps=480"])]
    assert len(planned) == 27
    assert "method=finetune" in planned[0]
    rivals = (
        "task_aware=false",
        "choice=uniform",
        "choice=random",
        "distil=0",
        *(f"budgets=[{b}]" for b in (0.75, 0.5, 0.35)),
    )
    assert all(sum(f"method.{rival}" in line for line in planned) == 3 for rival in rivals)


def test_mistakes_get_one_line(study: Any, tmp_path: Path) -> None:
    full = save_small_run(tmp_path / "full", METHODS["full"])
    with pytest.raises(
        ValueError, match=r"\Arun: names one network, expected the whole one, a supernet, and its rivals\Z"
    ):
        study.main([f"run={full}", *SMALL])
    other = save_small_run(tmp_path / "other", {**METHODS["full"], "parts": ["ffn"]})
    with pytest.raises(ValueError, match=r"\Arun=[^\n]*other: has no budgets, expected a run of method=budgeted\Z"):
        study.main([f"run={full},{other}", *SMALL])


def test_what_the_file_answers() -> None:
    study = results.build_budget_study(BUDGETS)
    assert results.describe_winner(study).endswith("tasks and budgets: uniform: better at 1, worse at 1 of 4.")
    assert "better at: edit at 0.5; surely worse at: none." in results.describe_fewer(study)
    assert "kept alike by all tasks: 0 at budget 1, 2 at budget 0.5." in results.describe_kept(study)
    assert "2 took within 5 % of the time promised (the farthest: -8.0%)" in results.describe_promises(study)
