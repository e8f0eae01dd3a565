"""Hydra's own flags do what Hydra documents, and a sweep leaves nothing where it was started."""

import json
import subprocess
from pathlib import Path

import pytest
from forked import run_script

RUN = Path(__file__).parents[2] / "experiments" / "run.py"
SMALL = ["training.steps=2", "training.batch_size=2", "training.warmup=0", "training.sample_every=null"]
SMALL += ["training.validate_every=null", "training.workers=0", "evaluation.per_task=2", "evaluation.baselines=false"]
SMALL += ["sampling.steps=1", "trainer.accelerator=cpu", "progress=false", "tasks=[edit]"]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_script(RUN, *arguments, cwd=folder)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--cfg", "job"], ["experts: 4", "per_task: 64"]),
        (["method=ia3", "--cfg", "job", "--package", "method"], ["_target_: baselines.ia3.IA3"]),
        (["--cfg", "job", "--resolve", "-p", "data"], ["size: 64"]),
        (["--info", "defaults"], ["method/mtu"]),
        (["--info", "searchpath"], ["experiments/configs"]),
        (["--hydra-help"], ["Hydra"]),
        (["--help"], ["method: ", "mtu"]),
    ],
)
def test_a_flag_shows_what_it_is_for(arguments: list[str], words: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_ones_own_configurations(tmp_path: Path) -> None:
    (tmp_path / "mine" / "method").mkdir(parents=True)
    (tmp_path / "mine" / "method" / "wide.yaml").write_text("_target_: mtdiff.methods.mtu.MTU\nexperts: 8\n")
    done = run(tmp_path, "--config-dir", "mine", "method=wide", "--cfg", "job", "-p", "method")
    assert done.returncode == 0, done.stderr
    assert "experts: 8" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config-name", "nothing"], "nothing"),
        (["--config-dir", "nowhere"], "--config-dir=nowhere: no such folder"),
        (["-m", "method=glob(d*)", "--cfg", "job"], "Only one of --run, --multirun, --cfg"),  # Hydra's own line
        (["-m", "method=glob(nothing*)"], "method=glob(nothing*): fits nothing that is there"),
    ],
)
def test_what_cannot_be_is_one_line(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run(tmp_path, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_leaves_its_runs_alone(tmp_path: Path) -> None:
    done = run(tmp_path, "-m", "method=choice(ia3,lora_ffn)", *SMALL)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/result.json")]
    assert sorted(r["method"] for r in results) == ["ia3", "lora_ffn"]
    assert {r["status"] for r in results} == {"complete"}
    assert sorted(path.suffix for path in (tmp_path / "runs").iterdir() if path.is_file()) == [".html"]
    assert done.stdout.count("report: ") == 3
    assert done.stdout.splitlines()[-1] == "report: runs/report-sweep.html"
    page = (tmp_path / "runs/report-sweep.html").read_text()
    assert all(f'"name":"{path.parent.name}"' in page for path in tmp_path.glob("runs/*/result.json"))


@pytest.mark.parametrize("name", ["Bilder Übung", "my pics (v2)", "lr=1e-4"])
def test_a_path_outside_of_hydras_grammar_shows_its_quotes(name: str, tmp_path: Path) -> None:
    done = run(tmp_path, f"run_dir={name}")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert f"""'run_dir="{name}"'""" in done.stderr
    quoted = run(tmp_path, f'run_dir="{name}"', "--cfg", "job")
    assert quoted.returncode == 0, quoted.stderr
    assert name in quoted.stdout
