"""A run that is killed and started again ends as one that never was: weights, states and rows, bit for bit."""

import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import METHODS, SHORT, VANISH, logged, orphans, said, trained, trained_by_two

from mtdiff.data.loader import tells_of_death
from mtdiff.errors import InUse
from mtdiff.runs.lock import hold_alone, wait_for
from mtdiff.training.checkpoint_files import find_newest, is_whole, list_checkpoints, step_of
from mtdiff.training.loggers import Rows, read_rows
from mtdiff.training.random_states import read_random_state, restore_random_state

# Where a run is killed, one after the other: each time it gets a little further. Two steps of accumulation make one.
DEATHS = [
    ("open", ".step-00000003.ckpt"),  # the first checkpoint is begun
    ("os.rename", ".step-00000003.ckpt"),  # it is all there but for its name
    ("os.rename", "metrics.csv"),  # the row of a validation is due, in a new file
    ("open", ".edit-000004.png"),  # among the pictures of step 4
    ("open", ".step-00000006.ckpt"),
    ("os.remove", "step-00000003"),  # two are there, and the oldest has to go
    ("open", ".step-00000012.ckpt"),  # training is over
    ("os.rename", ".adapter.safetensors"),
    ("tiny.record", "test/"),  # in the evaluation
    ("open", ".edit.png"),
    ("os.rename", ".result.json"),
]


def leaves(value: Any, name: str = "") -> Iterator[tuple[str, bytes]]:
    """Every number and tensor of a nested state, as bytes."""
    if isinstance(value, torch.Tensor):
        yield name, value.numpy().tobytes()
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{name}/{key}")
    elif isinstance(value, list | tuple):
        for key, inner in enumerate(value):
            yield from leaves(inner, f"{name}/{key}")
    else:
        yield name, repr(value).encode()


def ends(folder: Path) -> dict[str, bytes]:
    """What a finished run leaves: the whole state of training but for its seconds, adapter, rows, and pictures."""
    (last, *_) = list_checkpoints(folder / "checkpoints")
    state = dict(leaves(torch.load(last, weights_only=True)))
    kept = ("metrics.csv", "adapter.safetensors", "evaluation.csv", "samples/edit.png")
    files = {name: (folder / name).read_bytes() for name in kept}
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "complete"
    files |= {"rows": json.dumps(result["rows"]).encode(), "steps": json.dumps(result["steps"]).encode()}
    return {k: v for k, v in (state | files).items() if not k.endswith("/seconds")}


def differences(folder: Path, expected: dict[str, bytes]) -> set[str]:
    found = ends(folder)
    return {k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing has interrupted; whoever damages it takes a copy."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert trained(folder) == 0
    return folder


@pytest.fixture(scope="module")
def uninterrupted(finished: Path) -> dict[str, bytes]:
    return ends(finished)


def test_a_state_holds_all_that_has_one(uninterrupted: dict[str, bytes]) -> None:
    """Weights, their averages, the optimiser with what balancing learns, the schedule, the data, the random states."""
    for part in ("/state_dict/denoiser.", "/state_dict/balancing.", "/callbacks/EMA/shadow_params/0"):
        assert any(k.startswith(part) for k in uninterrupted), part
    for part in ("/optimizer_states/0/state/0/exp_avg", "/lr_schedulers/0/last_epoch", "/MixtureModule/position"):
        assert part in uninterrupted
    for kind in ("torch", "numpy/1", "python/1/0"):
        assert f"/callbacks/Checkpoints/random/0/{kind}" in uninterrupted


def test_killed_at_every_stage_it_ends_the_same(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed = [trained(run, death) for death in DEATHS]
    assert killed == [-signal.SIGKILL] * len(DEATHS)
    assert trained(run) == 0
    assert differences(run, uninterrupted) == set()


CASES: dict[str, tuple[dict[str, Any], str]] = {  # options, and a part of the state that only they have
    **{name: ({"method": name}, "") for name in METHODS if name != "mtu"},
    "pcgrad": ({"method": "lora_ffn", "pcgrad": True}, ""),
    "scaler": ({"scaler": True}, "/MixedPrecision/scale"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_method_goes_on_exactly(case: str, tmp_path: Path) -> None:
    """Killed before the row of the first validation is written."""
    options, part = CASES[case]
    assert trained(tmp_path / "whole", **{**SHORT, **options}) == 0
    expected = ends(tmp_path / "whole")
    assert not part or part in expected
    assert trained(tmp_path / "run", ("os.rename", "metrics.csv"), **{**SHORT, **options}) == -signal.SIGKILL
    assert step_of(list_checkpoints(tmp_path / "run" / "checkpoints")[0]) == 2
    assert trained(tmp_path / "run", **{**SHORT, **options}) == 0
    assert differences(tmp_path / "run", expected) == set()


@pytest.mark.parametrize("rank", [0, 1])
def test_two_processes_go_on_exactly(rank: int, whole_by_two: dict[str, bytes], tmp_path: Path) -> None:
    """One is killed: rank 0 while it saves, rank 1 in a validation."""
    death = {0: ("os.rename", ".step-00000004.ckpt"), 1: ("tiny.record", "validation/")}[rank]
    codes = trained_by_two(tmp_path / "run", {rank: death}, workers=0, **SHORT)
    assert codes[rank] == -signal.SIGKILL
    assert codes[1 - rank] != 0
    assert step_of(list_checkpoints(tmp_path / "run" / "checkpoints")[0]) == 2
    assert trained_by_two(tmp_path / "run", **SHORT) == [0, 0]
    assert differences(tmp_path / "run", whole_by_two) == set()


@pytest.fixture(scope="module")
def whole_by_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("two") / "run"
    assert trained_by_two(folder, **SHORT) == [0, 0]
    found = ends(folder)
    assert {k.split("/")[4] for k in found if k.startswith("/callbacks/Checkpoints/random/")} == {"0", "1"}
    return found


def test_killed_in_the_middle_of_a_write_it_ends_the_same(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert trained(run, largest=100_000, fatal=True) == -signal.SIGXFSZ
    (half,) = (run / "checkpoints").iterdir()
    assert (half.name[0], half.stat().st_size) == (".", 100_000)
    assert trained(run) == 0
    assert not list((run / "checkpoints").glob(".*"))
    assert differences(run, uninterrupted) == set()


def test_signals_end_a_run_in_order(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    """At the step after the signal there is a checkpoint, from which the same command goes on."""
    run, deaths, steps = tmp_path / "run", {5: signal.SIGTERM, 17: signal.SIGUSR1, 11: signal.SIGINT}, []
    for record, number in deaths.items():  # one at a time: a second signal would end the run at once
        code = trained(run, workers=0, deaths={record: number})
        assert code == 128 + number
        result = json.loads((run / "result.json").read_text())
        assert (result["status"], result["rows"]) == ("interrupted", [])
        assert result["error"].startswith(f"ended by {number.name}; the same command goes on")
        steps.append(step_of(list_checkpoints(run / "checkpoints")[0]))
    assert steps == sorted(steps)
    assert len(list(tmp_path.glob("run-record-*"))) == len(deaths)
    assert trained(run, workers=0, deaths=deaths) == 0
    assert differences(run, uninterrupted) == set()


def test_dead_loader_process_is_replaced(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert trained(run, deaths={3: signal.SIGKILL, 20: signal.SIGSEGV}) == 0
    assert said(run).count("new loader processes go on at the same batch") == 2
    assert differences(run, uninterrupted) == set()


@pytest.mark.parametrize("damage", ["cut", "altered", "empty"])
def test_damaged_checkpoint_gives_way_to_the_one_before(
    damage: str, finished: Path, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    last, before = list_checkpoints(run / "checkpoints")
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes({"cut": content[:-100], "altered": content, "empty": b""}[damage])
    assert not is_whole(last)
    (run / "adapter.safetensors").unlink()
    assert trained(run) == 0
    assert f"{last} is damaged: going on from the one before it" in said(run)
    assert before in list_checkpoints(run / "checkpoints")
    assert differences(run, uninterrupted) == set()


def test_full_disk_costs_checkpoints_but_not_the_run(tmp_path: Path) -> None:
    """No file may grow over 100 kB: training goes on to its end, then the adapter cannot be written."""
    run = tmp_path / "run"
    assert trained(run, largest=100_000) == 1
    text = said(run)
    for step in (3, 6, 9, 12):
        assert f"no checkpoint at step {step}: [Errno 27] File too large; there is none before it" in text
    (line,) = (line for line in text.splitlines() if line.startswith("error: "))
    assert json.loads((run / "result.json").read_text())["status"] == "failed"
    assert "adapter.safetensors: cannot be written" in line
    assert not list((run / "checkpoints").iterdir())
    assert len(read_rows(run / "metrics.csv")) > 4


def test_vanished_folder_is_made_again_with_what_is_known(uninterrupted: dict[str, bytes], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert trained(run, workers=0, deaths={5: VANISH}) == 1
    (line,) = (line for line in said(run).splitlines() if line.startswith("error: "))
    assert "vanished" in line
    assert trained(run) == 0
    assert differences(run, uninterrupted) == set()


def test_killed_run_leaves_no_loader_processes(tmp_path: Path) -> None:
    """Whatever Python would start them by."""
    left = orphans(tmp_path / "run")
    assert len(left) == 2
    end = time.monotonic() + 60  # they look for their parent every 5 s
    while (alive := [number for number in left if runs(number)]) and time.monotonic() < end:
        time.sleep(0.1)
    assert alive == []


def runs(number: int) -> bool:
    """Whether a process is there and not a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_logger_goes_on_with_its_run(tmp_path: Path) -> None:
    """Weights & Biases joins what processes of one run have written by its id."""
    for steps in (range(3), range(3, 6)):
        logged(tmp_path, steps)
    names = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert len(names) == 2
    assert {name.rpartition("-")[2] for name in names} == {json.loads((tmp_path / "wandb.json").read_text())["id"]}


# Parts


@pytest.mark.parametrize(
    ("error", "dead"),
    [
        (RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed."), True),
        (RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"), True),
        (ConnectionResetError(104, "Connection reset by peer"), True),
        (EOFError(), True),
        (RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0.\nOriginal Traceback"), False),
        (RuntimeError("expected scalar type Float"), False),
    ],
)
def test_what_tells_of_a_dead_loader_process(error: Exception, dead: bool) -> None:
    assert tells_of_death(error) == dead


def test_random_states_return() -> None:
    def draws() -> tuple[Any, ...]:
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random(), random.gauss(0, 1)  # noqa: NPY002

    random.gauss(0, 1)
    file = io.BytesIO()
    torch.save(read_random_state(), file)
    expected = draws()
    file.seek(0)
    restore_random_state(torch.load(file, weights_only=True))
    assert draws() == expected


def test_newest_of_none(tmp_path: Path) -> None:
    assert find_newest(tmp_path / "checkpoints") is None


def test_rows_go_on_without_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    rows = Rows(path)
    for step in range(4):
        rows.log_metrics({"b": step / 3}, step)
    rows.log_metrics({"a": torch.tensor(2.5), "epoch": 0.0}, 3)
    whole_file = path.read_bytes()
    assert whole_file.splitlines()[0] == b"a,b,epoch,step"
    path.write_bytes(whole_file[:-3])  # the last row is cut off
    again = Rows(path, before=2)
    assert [row["step"] for row in again.rows] == ["0", "1"]
    for step in (2, 3):
        again.log_metrics({"b": step / 3}, step)
    again.log_metrics({"a": 2.5, "epoch": 0}, 3)
    assert path.read_bytes() == whole_file


HOLDER = """
import sys, time
from pathlib import Path
from mtdiff.runs.lock import hold_alone
with hold_alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """The second is told who holds the folder; a holder that was killed holds it no longer."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with (
        pytest.raises(InUse, match=rf"run_dir=.*: in use by process {holder.pid} on \S+$"),
        hold_alone(tmp_path / "run"),
    ):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    wait_for(tmp_path / "run")
    with hold_alone(tmp_path / "run"):
        assert str(os.getpid()) in (tmp_path / "run" / ".lock").read_text()
    assert not (tmp_path / "run" / ".lock").exists()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"run_dir=.*file/run: cannot be written \(Not a directory\)"):  # noqa: SIM117
        with hold_alone(tmp_path / "file" / "run"):
            pass


def test_folder_that_is_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("mtdiff.runs.lock.os.open", refuse)
    with pytest.raises(ValueError, match=r"run_dir=.*/run: cannot be written \(Read-only file system\)"):  # noqa: SIM117
        with hold_alone(tmp_path / "run"):
            pass
