"""Studies that are made of finished runs: which mergers and sums they plan, and what is kept of them for the pages."""

import importlib
import json
from pathlib import Path

import pytest
from little_answers import FOUR, PLAIN, answer, make_emma
from PIL import Image

from mtdiff.results.record import Result
from mtdiff.results.study import read
from mtdiff.runs.suite import Planned

merging, references = importlib.import_module("merging"), importlib.import_module("references")
fill_pages = importlib.import_module("fill_pages")
JUDGED = ["method=finetune", "evaluation.per_task=256", "data.scenes=0", "training.steps=9", "+sampling.steps=3"]


def plan(folder: Path, result: Result, *overrides: str) -> Planned:
    result.save(folder / "result.json")
    return Planned([*JUDGED, *overrides], folder)


def test_mergers_are_of_each_method_seed_and_rule_and_judged_as_their_parts(tmp_path: Path) -> None:
    runs = [plan(tmp_path / f"a{s}{task}", answer("finetune", s, [task])) for s in (0, 1) for task in FOUR[:2]]
    runs.append(plan(tmp_path / "joint", answer("finetune", 0)))
    calls = list(merging.plan_mergers(runs))
    assert [call[3] for call in calls] == [
        f"out={tmp_path}/merged-finetune-{rule}-seed{seed}"
        for seed in (0, 1)
        for rule in ("average", "task_arithmetic", "ties", "dare")
    ]
    assert calls[4][0] == f"runs=[{tmp_path}/a1text_to_image,{tmp_path}/a1edit]"
    kept = ["evaluation.per_task=256", "data.scenes=0", "training.steps=9"]
    assert calls[4][1:] == ["rule=average", "scale=validation", calls[4][3], "seed=1", *kept]
    answer("x", 0).save(tmp_path / "merged-finetune-ties-seed1" / "result.json")
    assert len(list(merging.plan_mergers(runs))) == 7


def test_sums_are_of_modules_as_published(tmp_path: Path) -> None:
    runs = [plan(tmp_path / name, make_emma("emma", 0, [name], 0.1)) for name in ("object", "style", "tone")]
    runs[0].overrides.append("evaluation.baselines=true")
    runs.append(plan(tmp_path / "gate", make_emma("emma", 0, ["style"], 0.1, options={"gate": "scalar"})))
    runs.append(plan(tmp_path / "time", make_emma("emma", 0, ["style"], 0.1, options={"time": False})))
    runs.append(plan(tmp_path / "other", make_emma("ip_adapter", 0, ["style"], 0.1)))
    both, every = references.plan_sums(runs)
    assert both[:3] == [
        f"runs=[{tmp_path}/object,{tmp_path}/style]",
        "rule=sum",
        f"out={tmp_path}/sum-object+style-seed0",
    ]
    assert [o for o in both if o.startswith("evaluation.baselines")] == ["evaluation.baselines=false"]
    assert every[0] == f"runs=[{tmp_path}/object,{tmp_path}/style,{tmp_path}/tone]"


def test_runs_are_kept_once_and_thin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a study's runs those that are complete and in no other folder; of equal references the first."""
    monkeypatch.setattr(fill_pages, "RESULTS", tmp_path / "results")
    metrics = {**PLAIN, "edit": {"lpips_alex": "lower", "psnr": "higher"}}
    made = {f"run{s}": answer("mtu", s, ["edit"], metrics=metrics, base=0.1) for s in range(3)}  # type: ignore[arg-type]
    runs = [plan(tmp_path / "runs" / name, one) for name, one in made.items()]
    runs.append(plan(tmp_path / "runs" / "broken", answer("mtu", 3, status="failed")))
    plan(tmp_path / "runs" / "merged-a", answer("mtu_ties", 0))
    made["run2"].save(tmp_path / "results" / "main" / "run2.json")
    monkeypatch.setattr(fill_pages, "plan_suite", lambda name, overrides: runs)
    (said,) = fill_pages.fill_study("merging", [])
    assert said.startswith("merging: 3 of 4 planned and further runs kept")
    kept = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "results" / "merging").iterdir()}
    assert sorted(kept) == ["merged-a", "run0", "run1"]
    assert [(row["model"], row["metric"]) for row in kept["run0"]["rows"]] == [
        *(("run", "lpips_alex"), ("run", "psnr"), ("base", "lpips_alex"), ("base", "psnr")),
    ]
    assert {row["model"] for row in kept["run1"]["rows"]} == {"run"}
    assert [row["values"] is None for row in kept["run0"]["rows"]] == [False, True, False, True]
    again = read(f"{tmp_path}/results/*/*.json")
    assert len(again.every) == 4
    assert fill_pages.find_sheet_runs("main", runs) == []


def test_a_sheet_has_a_place_for_every_tile() -> None:
    draw_sheets = importlib.import_module("draw_sheets")
    red = draw_sheets.Tile(Image.new("RGB", (8, 8), "red"), "a long text that does not fit below a picture")
    sheet = draw_sheets.lay_out({"first": [red, red], "second": [draw_sheets.Tile(None), red]}, ["one", "two"])
    assert sheet.size == (150 + 2 * 92 - 4, 17 + 2 * 105)
    assert sheet.getpixel((150 + 92 + 44, 17 + 105 + 44)) == (255, 0, 0)
    assert sheet.getpixel((150 + 44, 17 + 105 + 44)) == (255, 255, 255)
    with pytest.raises(ValueError, match=r"sheet=house: expected one of joint, references"):
        draw_sheets.main(["sheet=house", "runs=a"])
