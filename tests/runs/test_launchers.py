"""What launchers leave in a shell: a run of one process is complete, or one line names the variable."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import run_script
from whole_runs import composed

from mtdiff.errors import ConfigError
from mtdiff.runs.checks import check_launcher

ROOT = Path(__file__).parents[2]
ONE = {"devices": 1, "num_nodes": 1}
TORCHRUN = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "LOCAL_WORLD_SIZE": "1", "GROUP_RANK": "0"}
TORCHRUN |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_PROCID": "0"}
HARMLESS = {
    **TORCHRUN,
    **SLURM,
    **{"SLURM_NTASKS": "1", "SLURM_JOB_NODELIST": "node[1-3]", "NODE_RANK": "2"},
    **{"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
    **{"PMI_RANK": "1", "PMI_SIZE": "2", "PMIX_RANK": "1", "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2"},
}
"""All at once: what one process of a launcher has, and what Lightning and we do not look at."""
ELSEWHERE = {"WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "1"}
SMALL = ["training.steps=2", "training.batch_size=2", "training.warmup=0", "training.sample_every=null"]
SMALL += ["training.validate_every=null", "training.workers=0", "evaluation.per_task=2", "evaluation.baselines=false"]
SMALL += ["sampling.steps=1", "trainer.accelerator=cpu", "progress=false", "method=ia3"]


Start = Callable[[Path, dict[str, str]], subprocess.CompletedProcess[str]]


def run(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "experiments" / "run.py"), *SMALL, f"run_dir={folder}"]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)


def run_forked(folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run_script("experiments/run.py", *SMALL, f"run_dir={folder}", env={**os.environ, **environment})


@pytest.mark.parametrize(("start", "environment"), [(run, HARMLESS), (run_forked, ELSEWHERE)])
def test_a_run_of_one_process_is_whole(start: Start, environment: dict[str, str], tmp_path: Path) -> None:
    done = start(tmp_path / "run", environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["status"] == "complete"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"config.yaml", "evaluation.csv", "samples", "adapter.json", "adapter.safetensors"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "3"),
        ("LOCAL_RANK", "1"),
        ("SLURM_PROCID", "2"),
        ("SLURM_NTASKS", "4"),
        ("RANK", ""),
        ("RANK", "\x1b[2J"),
    ],
)
def test_another_rank_is_one_line(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{name}=[^\n\x1b]*: .* unset {name}$"):
        check_launcher(ONE, {**HARMLESS, name: value})


def test_the_command_itself_says_so(tmp_path: Path) -> None:
    done = run(tmp_path / "run", {"RANK": "3"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: RANK=3: is of a launcher")
    assert not (tmp_path / "run").exists()


def test_runs_of_several_processes_have_ranks() -> None:
    check_launcher({"devices": 2, "num_nodes": 1}, {"LOCAL_RANK": "1"})
    check_launcher(composed(["trainer=slurm"])[0]["trainer"], {"SLURM_PROCID": "3", "SLURM_NTASKS": "16"})
    check_launcher(ONE, {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "bash"})
