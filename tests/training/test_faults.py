"""What is not finite stops a run or is left out; a logger that stalls or is gone holds nothing up."""

import contextlib
import io
import json
import math
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import replay
import torch
import yaml
from run_folders import ABOUT
from safetensors.torch import save_file
from tiny_runs import experiment
from torch import Tensor

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.errors import RunError
from mtdiff.runs.train import train
from mtdiff.training.balancing import Weighting
from mtdiff.training.faults import keep, load, read_trained
from mtdiff.training.loggers import Background, Rows
from mtdiff.training.module import Draws
from mtdiff.training.signals import Signals
from mtdiff.types import Batch

QUICK = {"sample_every": None, "validate_every": None, "save_every": None, "workers": 0, "warmup": 0, "decay": 0.0}


class Late(Weighting):
    """The error itself, but not a number at times from 900 on."""

    def forward(self, losses: Tensor, t: Tensor, diffusion: Diffusion) -> Tensor:
        return losses + torch.where(t >= 900, math.nan, 0.0)


class Steep(Weighting):
    """The error itself, whose gradient is not a number."""

    def forward(self, losses: Tensor, t: Tensor, diffusion: Diffusion) -> Tensor:
        return losses + (losses - losses).sqrt()


def late_steps(run, steps: int) -> list[int]:  # type: ignore[no-untyped-def]
    """Steps with a time from 900 on, found from the examples' numbers alone."""
    size, late = run.training.batch_size * run.training.accumulate, []
    for step in range(steps):
        batch = Batch.collate([run.data.train[i] for i in range(step * size, (step + 1) * size)])
        t = Draws.of(batch, run.module.denoiser.backbone.latent_shape, run.module.diffusion).t
        late += [step + 1] * bool((t >= 900).any())
    return late


def test_divergence_stops_at_its_step_and_keeps_the_batch(tmp_path: Path) -> None:
    run = experiment(tmp_path, lr=1e30, ema_decay=None, **QUICK)
    with Signals() as signals, pytest.raises(RunError, match=r"^step 2: the loss is not finite \(\w+ train/") as error:
        train(run, signals)
    path = tmp_path / "faults" / "step-2.json"
    assert str(error.value).endswith(f"; its batch is in {path}")
    about = json.loads(path.read_text())
    bad = [e for e in about["examples"] if not math.isfinite(float(e["error"]))]
    assert (about["step"], about["what"]) == (2, "loss")
    assert bad[0]["task"] in run.data.tasks
    assert 0 <= bad[0]["t"] < 1000
    batch = load(path)
    assert [e["key"] for e in about["examples"]] == batch.key
    assert batch.key == Batch.collate([run.data.train[i] for i in range(8, 8 + len(batch))]).key
    said, code = replayed(tmp_path)  # from the files alone
    assert code == replay.NOT_FINITE
    for line, example in zip(said.splitlines(), about["examples"], strict=False):
        assert line.startswith(example["task"])
        assert f"t={example['t']} " in line
        assert f" error {float(example['error']):<12.6g} " in line
    assert "loss nan" in said


def replayed(folder: Path, *options: str) -> tuple[str, int]:
    """What replay.py says of the run in `folder`, which is `experiment`'s, and its exit code."""
    config = {**ABOUT, "method": {"_target_": "mtdiff.methods.mtu.MTU", "experts": 2}}
    weighting = {"_target_": "mtdiff.training.balancing.Uncertainty", "clusters": 3}
    config |= {"balancing": {"_target_": "mtdiff.training.balancing.Balancing", "weighting": weighting}}
    config |= {"training": {"steps": 12, "batch_size": 4, "lr": 1.0}, "trainer": {"precision": "32-true"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    out, code = io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try:
            replay.main([f"run={folder}", *options])
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return out.getvalue(), code


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda f: (f / "config.yaml").unlink(), "no run folder"),
        (lambda f: (f / "faults" / "step-2.json").unlink(), "has kept no fault"),
        (lambda f: (f / "faults" / "step-2.json").write_text("{}"), "holds no batch, expected"),
        (lambda f: (f / "faults" / "step-2.safetensors").write_bytes(b""), "not safetensors"),
        (lambda f: (f / "faults" / "step-2-weights.safetensors").unlink(), "no such file"),
        (lambda f: replace_by_link(f / "faults" / "step-2.json"), "leads out of its folder"),
        (lambda f: replace_by_link(f / "config.yaml"), "leads out of its folder"),
    ],
)
def test_fault_of_another_is_refused(spoil: Callable[[Path], object], expected: str, tmp_path: Path) -> None:
    """A whole one is replayed above; here its weights are those at the start."""
    run = experiment(tmp_path / "run", **QUICK)
    (tmp_path / "run" / "faults").mkdir(parents=True)
    batch = Batch.collate([run.data.train[i] for i in range(2)])
    keep(tmp_path / "run" / "faults" / "step-2.json", {}, batch)
    save_file(read_trained(run.module), tmp_path / "run" / "faults" / "step-2-weights.safetensors")
    said, code = replayed(tmp_path / "run")
    assert (code, said.splitlines()[-1].split("; ")[1]) == (0, "gradients that are not finite: 0")
    spoil(tmp_path / "run")
    with pytest.raises(ValueError, match=rf"\A[^\n]*{expected}[^\n]*\Z"):
        replay.main([f"run={tmp_path / 'run'}"])


def replace_by_link(path: Path) -> None:
    elsewhere = path.parents[2] / path.name
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def test_gradient_that_is_not_finite_is_named(tmp_path: Path) -> None:
    run = experiment(tmp_path, weighting=Steep(), ema_decay=None, **QUICK)
    before = {k: v.clone() for k, v in run.module.denoiser.adapter().items()}
    with Signals() as signals, pytest.raises(RunError, match=r"^step 1: the gradient is not finite \(of denoiser\."):
        train(run, signals)
    about = json.loads((tmp_path / "faults" / "step-1.json").read_text())
    assert about["parameters_in_all"] >= len(about["parameters"]) > 0
    assert len(about["examples"]) == 8  # both batches of the step: which it was, nobody knows
    assert all(torch.equal(v, before[k]) for k, v in run.module.denoiser.adapter().items())


def test_steps_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The optimiser takes the other steps alone."""
    run = experiment(tmp_path, weighting=Late(), on_nan="skip", steps=8, ema_decay=None, **QUICK)
    late = late_steps(run, 8)
    assert 0 < len(late) < 8
    with Signals() as signals:
        trainer, _ = train(run, signals)
    assert trainer.global_step == 8
    lines = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert [line.split(":")[0] for line in lines] == [f"step {step}" for step in late]
    assert lines[-1].endswith(f"the step is left out ({len(late)} so far)")
    counts = {int(state["step"]) for state in trainer.optimizers[0].state.values()}
    assert counts == {8 - len(late)}
    assert all(torch.isfinite(v).all() for v in run.module.denoiser.adapter().values())


# Loggers


def test_stalled_logger_costs_its_rows_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    stalled = threading.Event()

    class Stalling(Rows):
        def log_metrics(self, *args: object, **kwargs: object) -> None:
            stalled.wait()

    logger = Background("far away", lambda: Stalling(tmp_path / "rows.csv"), lambda: None, patience=0.05, most=4)
    for step in range(20):
        logger.log_metrics({"loss": 1.0}, step)
    logger.close()
    assert "far away does not keep up" in caplog.text
    stalled.set()


def test_logger_that_cannot_start_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Rows:
        raise ConnectionError("no route\nto host")

    logger = Background("far away", make, lambda: None, patience=5)
    for step in range(3):
        logger.log_metrics({"loss": 1.0}, step)
    logger.close()
    assert "far away: no route to host; the run goes on without it" in caplog.text


def test_background_passes_every_row_on(tmp_path: Path) -> None:
    logger = Background("near", lambda: Rows(tmp_path / "rows.csv"), lambda: None, patience=30)
    for step in range(50):
        logger.log_metrics({"loss": step / 7}, step)
    logger.close()
    assert [float(row["loss"]) for row in Rows(tmp_path / "rows.csv", before=99).rows] == [s / 7 for s in range(50)]


WANDB = """
import logging, sys
from pathlib import Path
logging.basicConfig()
from mtdiff.training.loggers import wandb_logger
logger = wandb_logger(Path(sys.argv[1]), {"project": "p", "offline": False}, patience=2)
logger.log_metrics({"loss": 1.0}, 1)
logger.close()
print("went on")
"""


def test_wandb_server_that_never_answers(tmp_path: Path) -> None:
    """A server takes the connection and says nothing: the run goes on, and its process ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        account = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address, "WANDB_MODE": "online"}
        script = [sys.executable, "-c", WANDB, str(tmp_path)]
        place = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(script, env=account | place, capture_output=True, text=True, timeout=300, check=True)
    assert "went on" in done.stdout
    assert "Weights & Biases" in done.stderr
