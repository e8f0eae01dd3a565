"""Two processes against one with the same global batch: losses, examples, validation, weights, pictures.

Everything is trained once, by tiny_distributed.py in a process of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_script
from safetensors.torch import load_file
from tiny_distributed import BATCH, CASES, STEPS, VALIDATION
from whole_runs import ROOT, SMALL

from mtdiff.training.parallel import rank_windows


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("distributed")
    script = ROOT / "tests" / "helpers" / "tiny_distributed.py"
    done = subprocess.run([sys.executable, str(script), str(out)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return out


def kept(out: Path, case: str, processes: int) -> list[dict[str, Any]]:
    return [json.loads((out / f"{case}-{processes}-{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(case: str, trained: Path) -> None:
    (alone,), (one, other) = kept(trained, case, 1), kept(trained, case, 2)
    assert len(alone["losses"]) == STEPS
    for together in (one, other):  # every process logs what all have seen
        for step, expected in zip(together["losses"], alone["losses"], strict=True):
            assert step == pytest.approx(expected, abs=1e-4)
    steps = [loss["train/loss"] for loss in alone["losses"]]
    assert max(steps) - min(steps) > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_every_example_is_seen_once(case: str, trained: Path) -> None:
    (alone,), together = kept(trained, case, 1), kept(trained, case, 2)
    assert len(set(alone["seeds"])) == 2 * BATCH * STEPS
    assert sorted(s for process in together for s in process["seeds"]) == sorted(alone["seeds"])
    for step in range(STEPS):
        part = [s for process in together for s in process["seeds"][step * BATCH : (step + 1) * BATCH]]
        assert part == alone["seeds"][2 * step * BATCH : 2 * (step + 1) * BATCH]


@pytest.mark.parametrize("case", CASES)
def test_validation_is_over_both(case: str, trained: Path) -> None:
    (alone,), together = kept(trained, case, 1), kept(trained, case, 2)
    assert len(alone["validated"]) == 4 * VALIDATION
    shares = [process["validated"] for process in together]
    assert {len(share) for share in shares} == {2 * VALIDATION}
    assert set(shares[0]) | set(shares[1]) == set(alone["validated"])
    assert len(alone["validation"]) == 5
    for process in together:
        assert process["validation"] == pytest.approx(alone["validation"], abs=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_weights_and_pictures_are_the_same(case: str, trained: Path) -> None:
    """Gathered adapters, averaged by EMA, under clipping, with what the balancing learns; and pictures."""
    alone, together = (load_file(trained / f"{case}-{n}.safetensors") for n in (1, 2))
    assert alone["s"].abs().min() > 1e-4
    assert alone.keys() == together.keys()
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, atol=5e-5, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_checkpoint_of_two_holds_what_that_of_one_does(case: str, trained: Path) -> None:
    alone, together = (torch.load(trained / f"{case}-{n}.ckpt", weights_only=True)["state_dict"] for n in (1, 2))
    left_out = [k for k in alone if k not in together]
    assert all("add_q_proj.lora" in k for k in left_out)  # added to what nothing uses, so never trained
    assert len(together) == len(alone) - len(left_out) > 4
    for name, tensor in together.items():
        torch.testing.assert_close(tensor, alone[name], atol=5e-5, rtol=0)


def test_the_command_of_the_readme_by_two_processes(tmp_path: Path) -> None:
    """Lightning starts the second process itself, with the same arguments; one of them writes and speaks."""
    options = ["trainer=ddp", *SMALL, "speed.fused=false", f"run_dir={tmp_path}/run"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = run_script("experiments/run.py", *options, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert done.stdout.count("done: ") == 1
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["steps"], result["samples_seen"]) == ("complete", 1, 8)
    assert len({row["task"] for row in result["rows"]}) == 4


def test_windows_cover_all_rows_in_equal_parts() -> None:
    for number in range(1, 20):
        for processes in range(1, 9):
            starts, each = rank_windows(number, processes)
            assert {row for start in starts for row in range(start, start + each)} == set(range(number))
            assert each == -(-number // processes)
