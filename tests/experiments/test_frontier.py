"""The study of quality against time, on small runs at a small setting, and what is concluded from its file."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from little_ways import WAYS
from run_folders import make_run
from small_runs import SIDE, save_small_run
from whole_runs import ROOT, SMALL

from mtdiff.commands.suites import plan_suite
from mtdiff.results import ways as results

FINETUNE = {"_target_": "baselines.finetune.Finetune"}
LIGHT = {"_target_": "baselines.assembled.Assembled", "drop": ["middle"]}
DATA = [*SMALL, f"data.size={SIDE}"]
OPTIONS = ["per_task=2", "repeats=2", *DATA]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "experiments" / "studies"))
    found = importlib.import_module("frontier")
    monkeypatch.setattr(found, "EVERY", (3,))
    monkeypatch.setattr(found, "UNTIL", (500,))
    monkeypatch.setattr(found, "SHARES", (0.5,))
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds of a whole network and of a lighter one."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        save_small_run(folder / f"full-{seed}", FINETUNE, seed)
        save_small_run(folder / f"light-{seed}", LIGHT, seed)
    return folder


def start(study: Any, runs: Path, out: Path, *more: str) -> dict[str, dict[str, Any]]:
    given = [f"run={runs}/full-*", f"light={runs}/light-*", f"lighter={runs}/light-*", f"out={out}"]
    study.main([*given, *OPTIONS, *more])
    return {entry["name"]: entry for entry in json.loads(out.read_text())["ways"]}


def test_every_way_stands_beside_fewer_steps(
    study: Any, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    found, light = start(study, runs, tmp_path / "out.json"), "Assembled drop=[middle]"
    levels = [f"{level} every 3" for level in ("block", "layer", "unit")]
    assert [name for name in found if not name.endswith(" steps")] == ["whole", *levels, "light until 500", light]
    assert "2 steps" in found
    for name, entry in found.items():
        low, middle, high = entry["time_ratio"]
        assert 0 < low <= middle <= high
        assert entry["seeds"] == [0, 1]
        alone = name == "whole" or name.endswith(" steps")
        assert (entry["fewer_steps"] is None) == alone
        assert entry["fewer_steps"] is None or entry["fewer_steps"] in found
        assert all((row[2] is None) == alone for row in entry["rows"] if row[1] is not None)
    assert found["whole"]["flops_ratio"] == 1
    assert found["2 steps"]["time_ratio"][1] == found["2 steps"]["flops_ratio"] == 0.5
    assert found["layer every 3"]["flops_ratio"] < found["block every 3"]["flops_ratio"] < 1
    assert found[light]["flops_ratio"] < found["light until 500"]["flops_ratio"] < 1
    assert (tmp_path / "out.json").stat().st_size < 20_000
    said = capsys.readouterr().out
    assert "judged in" in said
    assert "At least 1.4 times faster" in said

    start(study, runs, tmp_path / "again.json")  # goes on where it was: nothing is judged twice
    named = {line.split(": ")[1] for line in capsys.readouterr().out.splitlines() if line.startswith("judged in")}
    assert not named & {f"{name}, seed 0" for name in found}


def test_rows_are_those_of_pictures_drawn_by_load_run(
    study: Any, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mean over seeds of scores that a loaded model gets, drawn and judged apart from the study."""
    from mtdiff.commands.compose import read_configuration
    from mtdiff.config.schema import construct
    from mtdiff.data.mixture import Mixture
    from mtdiff.model.painter import first_noise
    from mtdiff.runs.load import load_run
    from mtdiff.types import Batch

    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(study, "EVERY", ())
    study.main([f"run={runs}/full-*", f"out={tmp_path}/out.json", *OPTIONS])
    content = json.loads((tmp_path / "out.json").read_text())
    plain, _ = read_configuration(DATA)
    judge, values = construct(plain["metrics"]).judge(), []
    for seed in (0, 1):
        model = load_run(runs / f"full-{seed}", sampling={"steps": 2})
        fixed = Mixture.first_examples(construct(plain["data"]), list(model.tasks.values()), "test", 2)
        batch = Batch.collate([fixed[i] for i in (2, 3)])
        drawn = model.painter.draw(batch, first_noise(batch, model.painter.denoiser.backbone.latent_shape, 0))
        rows = judge.rows("super_resolution", model.tasks["super_resolution"].metrics, drawn, batch, 0)
        values.append({row.metric: row.value for row in rows})
    place = next(k for k, c in enumerate(content["columns"]) if c["metric"] == "lpips_alex" and c["task"] != "edit")
    (entry,) = (way for way in content["ways"] if way["name"] == "2 steps")
    assert entry["rows"][place][0] == pytest.approx(sum(v["lpips_alex"] for v in values) / 2, rel=1e-3)


def test_mistakes_get_one_line(study: Any, runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\Arun: has to be given, as run=\.\.\., or suite=\.\.\. in its place\Z"):
        study.main([])
    with pytest.raises(ValueError, match=r"\Arepeats=0: expected a whole number of at least 1\Z"):
        study.main([f"run={runs}/full-0", "repeats=0"])
    with pytest.raises(ValueError, match=r"\Arun=[^\n]*: fits no folder\Z"):
        study.main([f"run={runs}/none-*"])
    with pytest.raises(
        ValueError, match=r"\Arun: Finetune and Assembled drop=\[middle\] differ in more than their seed\Z"
    ):
        study.main([f"run={runs}/*-0"])
    shutil.copytree(runs / "full-0", tmp_path / "copy")
    with pytest.raises(ValueError, match=r"\Arun: [^\n]*full-0 and [^\n]*copy are the same, Finetune of seed 0\Z"):
        study.main([f"run={runs}/full-0,{tmp_path}/copy"])
    with pytest.raises(ValueError, match=r"\Arun=[^\n]*: was trained on text_to_image, [^\n]* expected edit, [^\n]*\Z"):
        study.main([f"run={runs}/full-0", f"lighter={make_run(tmp_path / 'other')}"])


def test_the_suites_have_what_the_study_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole network first, then the light one of drawings by two; the second suite needs the first one's runs."""
    monkeypatch.chdir(tmp_path)
    planned = [" ".join(run.overrides) for run in plan_suite("assembled", ["training.steps=480"])]
    assert len(planned) == 21
    assert all("method=finetune" in line for line in planned[:3])
    assert all("method=assembled" in line and "method.distil=" in line for line in planned[3:6])
    assert sum("method.start=random" in line for line in planned) == 6
    with pytest.raises(ValueError, match=r"\Amethod.teacher=runs/whole-0: no such folder, [^\n]*\Z"):
        plan_suite("assembled_taught", ["training.steps=480"])


# What is concluded


@pytest.fixture
def invented() -> results.Ways:
    return results.build_ways(WAYS)


def test_what_to_take_for_less_time(invented: results.Ways) -> None:
    """A way that beats fewer steps somewhere and loses to them nowhere, near the time; else fewer steps."""
    chosen = {saved: results.choose_way(invented, saved) for saved in (0.05, 0.1, 0.3, 0.5, 0.99)}
    assert {saved: entry and entry.name for saved, entry in chosen.items()} == {
        0.05: "slow",
        0.1: "18 steps",
        0.3: "good",
        0.5: "10 steps",
        0.99: None,
    }
    assert any(line == "| 30% | good | 68% | edit | inpaint |" for line in results.list_choices(invented))
    assert "| good | 68% (67% to 69%) | 14 steps | 0.250 = ▲ | 0.250 = | 0.250 − |" in list(
        results.list_entries(invented)
    )


def test_the_aim_is_answered_from_the_figures(invented: results.Ways) -> None:
    said = results.describe_aim(invented)
    assert said.startswith("At least 1.4 times faster with no sure loss at 2 or more tasks: good, mixed. ")
    assert said.endswith("and surely worse at none: good, slow.")


def test_a_score_for_each_example_is_shown_before_a_number_of_the_set() -> None:
    columns = [*WAYS["columns"], {"task": "inpaint", "metric": "psnr", "direction": "higher"}]
    study = results.build_ways({**WAYS, "columns": columns, "by_example": [True, True, False, True]})
    assert study.headlines == [0, 1, 3]
    assert results.build_ways({**WAYS, "by_example": [True, True, False]}).headlines == [0, 1, 2]


def test_another_file_is_refused(tmp_path: Path) -> None:
    assert results.read_ways(tmp_path / "none.json") is None
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match=r"\A[^\n]*other.json: not a study of experiments/studies/frontier.py\Z"):
        results.read_ways(tmp_path / "other.json")


def test_a_number_of_the_whole_set_is_compared_over_seeds() -> None:
    """Against scipy's paired test."""
    from scipy import stats

    from mtdiff.results.record import Row

    def rows(values: list[float]) -> dict[int, list[Row]]:
        return {seed: [Row("edit", "fd", "lower", v, 9, None, None)] for seed, v in enumerate(values)}

    a, b = [3.0, 4.0, 3.5], [2.5, 3.8, 3.1]
    (found,) = results.compare_rows(rows(a), rows(b))
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found == pytest.approx([sum(a) / 3 - sum(b) / 3, interval.low, interval.high], rel=1e-3)
    assert results.compare_rows(rows(a[:1]), rows(b[:1])) == [None]
