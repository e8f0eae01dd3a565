"""The main job as a user starts it: its folder, its result, the same rows again, going on, and its neighbours."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from forked import run_script
from safetensors.torch import load_file
from whole_runs import composed, whole_run

ROOT = Path(__file__).parents[2]
SMALL = [
    "training.batch_size=4",
    "evaluation.per_task=4",
    "evaluation.validation_per_task=2",
    "evaluation.batch_size=8",
    "sampling.steps=2",
    "trainer.accelerator=cpu",
    "progress=false",
]
TASKS = ["text_to_image", "edit", "super_resolution", "inpaint"]


def run(script: str, *arguments: str, code: int = 0, anew: bool = False) -> str:
    """What a script says. anew: as a program that Python starts, not as a fork of this one."""
    path = ROOT / "experiments" / script
    if anew:
        command = [sys.executable, str(path), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    else:
        done = run_script(path, *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("runs") / "mtu"
    often = ["training.steps=4", "training.sample_every=2", "training.validate_every=2", "training.save_every=2"]
    said = run("run.py", "method=mtu", f"run_dir={folder}", "training.workers=0", *often, *SMALL)
    return folder, said


def test_run_folder_holds_what_it_promises(finished: tuple[Path, str]) -> None:
    folder, said = finished
    for name in ("config.yaml", "result.json", "metrics.csv", "evaluation.csv", "adapter.safetensors", "adapter.json"):
        assert (folder / name).stat().st_size > 0, name
    for task in TASKS:
        assert (folder / "samples" / f"{task}.png").exists()
        assert (folder / "samples" / "training" / f"{task}-000004.png").exists()
    assert [p.name.split("-")[1] for p in sorted((folder / "checkpoints").iterdir())] == ["00000002", "00000004"]
    assert not (folder / ".lock").exists()
    assert str(folder / "result.json").rsplit("/", 1)[1] in said
    assert "samples" in said
    assert said.splitlines()[-1] == f"report: {folder}/report.html"
    assert (folder / "report.html").read_text().count("data:image/webp;base64,") == 3 * len(TASKS) - 1  # no source


def test_result_is_complete(finished: tuple[Path, str]) -> None:
    result = json.loads((finished[0] / "result.json").read_text())
    assert result["status"] == "complete"
    assert (result["method"], result["backbone"], result["data"], result["tasks"]) == ("mtu", "nano", "emoji", TASKS)
    assert result["steps"] == 4
    assert result["samples_seen"] == 16
    assert 0 < result["params"]["trainable"] < result["params"]["total"]
    assert result["cost"]["flops"] > result["cost"]["flops_no_attn"] > 0
    rows = [(r["model"], r["task"], r["metric"]) for r in result["rows"]]
    assert len(set(rows)) == len(rows)
    for task in TASKS:
        assert {"run", "autoencoder", "base"} <= {model for model, t, _ in rows if t == task}
    assert ("bicubic", "super_resolution", "lpips_alex") in rows
    assert ("copy", "inpaint", "lpips_alex") in rows
    for row in result["rows"]:
        assert (row["value"] is None) == (row["reason"] is not None)


def test_training_log_has_a_loss_per_task(finished: tuple[Path, str]) -> None:
    with (finished[0] / "metrics.csv").open() as f:
        columns = csv.DictReader(f).fieldnames or []
    for task in TASKS:
        assert f"validation/loss/{task}" in columns


def test_adapter_holds_the_method_alone(finished: tuple[Path, str]) -> None:
    adapter = load_file(finished[0] / "adapter.safetensors")
    result = json.loads((finished[0] / "result.json").read_text())
    assert sum(v.numel() for v in adapter.values()) == result["params"]["trainable"]
    assert not [k for k in adapter if "attn" in k]


def test_same_seed_gives_the_same_rows_with_other_workers(finished: tuple[Path, str], tmp_path: Path) -> None:
    folder = tmp_path / "again"
    often = ["training.steps=4", "training.sample_every=null", "training.validate_every=2", "training.save_every=null"]
    run("run.py", "method=mtu", f"run_dir={folder}", "training.workers=2", *often, *SMALL)
    first, second = (json.loads((f / "result.json").read_text())["rows"] for f in (finished[0], folder))
    assert first == second


def test_a_finished_run_is_not_run_again(finished: tuple[Path, str]) -> None:
    folder, _ = finished
    before = (folder / "result.json").read_bytes()
    often = ["training.steps=4", "training.sample_every=2", "training.validate_every=2", "training.save_every=2"]
    said = run("run.py", "method=mtu", f"run_dir={folder}", "training.workers=0", *often, *SMALL)
    assert "complete already" in said
    assert (folder / "result.json").read_bytes() == before


def test_another_experiment_in_the_folder_is_refused(finished: tuple[Path, str]) -> None:
    said = run("run.py", "method=ia3", f"run_dir={finished[0]}", *SMALL, code=2)
    assert "holds a run with another `method`" in said


def test_a_run_starts_from_another_ones_adapter(finished: tuple[Path, str], tmp_path: Path) -> None:
    start = [f"training.start={finished[0]}", "training.lr=0", "seed=1"]
    result = whole_run(tmp_path / "further", "method=mtu", *start)
    assert (result["steps"], result["config"]["training"]["start"]) == (1, str(finished[0]))
    first, further = (load_file(f / "adapter.safetensors") for f in (finished[0], tmp_path / "further"))
    assert all(torch.equal(first[name], further[name]) for name in first)


@pytest.mark.parametrize("other", ["method=ia3", "tasks=[edit]", "method.experts=2", "backbone=nano_dit"])
def test_an_adapter_of_something_else_is_no_start(other: str) -> None:
    composed(["training.start=mtu-nano", "task.super_resolution.scale=2"])
    with pytest.raises(ValueError, match=f"^{other[:4]}.*not what .*adapter.json was trained with; expected its own"):
        composed(["training.start=mtu-nano", other])


def test_table_shows_the_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    run("table.py", f"results={finished[0]}/result.json", f"out={tmp_path}/table")
    text = (tmp_path / "table.md").read_text()
    assert "mtu" in text
    assert "lpips_alex" in text
    assert (tmp_path / "table.html").exists()


def test_one_task_and_wandb_offline(tmp_path: Path) -> None:
    folder = tmp_path / "edit"
    options = ["tasks=[edit]", "logger.wandb=true", "training.steps=2", "evaluation.baselines=false"]
    run("run.py", "method=finetune", f"run_dir={folder}", "training.workers=0", *options, *SMALL)
    result = json.loads((folder / "result.json").read_text())
    assert {r["task"] for r in result["rows"]} == {"edit"}
    assert result["params"]["total_for_all_tasks"] > 3 * result["params"]["trainable"]
    offline = list((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert len(offline) == 1
    assert offline[0].stat().st_size > 0


def test_killed_runs_end_as_if_they_never_were(tmp_path: Path) -> None:
    run("studies/kill_study.py", "kills=2", "methods=mtu", "warm=true", f"out={tmp_path}/kills.json", anew=True)
    found = json.loads((tmp_path / "kills.json").read_text())
    assert (found["kills"], found["identical"], found["unreadable_checkpoints"]) == (2, 2, 0)
    assert sum(found["during"].values()) == 2
