"""What does not depend on a run is judged once: rows from the cache are those that were made."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_unet
from tiny_runs import experiment
from torch import nn

from mtdiff.config.settings import Evaluation
from mtdiff.methods.untouched import Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.results.record import Row
from mtdiff.runs import baselines
from mtdiff.runs.baselines import describe_baselines, locate_rows, remember_rows
from mtdiff.runs.experiment import Experiment
from mtdiff.types import Batch

ROWS = [Row("edit", "psnr", "higher", 17.25, 2, 16.5, 18.0, "copy", values=(16.5, 18.0))]
ROWS += [Row("edit", "fd", "lower", None, 0, None, None, "base", reason="needs at least 10 examples, got 2")]


class Judge(nn.Module):
    def __init__(self, number: float = 0.0) -> None:
        super().__init__()
        self.measures, self.weight = {"psnr": None}, nn.Parameter(torch.tensor([number]))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "cache"))
    made = experiment(tmp_path / "run")
    base = Denoiser(tiny_unet(), Untouched(), made.module.tasks)
    return replace(made, judge=Judge(), evaluation=Evaluation(per_task=2), untouched=base)  # type: ignore[arg-type]


def examples(run: Experiment) -> Batch:
    return Batch.collate([run.data.test[i] for i in range(len(run.data.test))])


def refuse() -> list[Row]:
    raise AssertionError("judged again")


def test_rows_are_made_once(run: Experiment) -> None:
    batch = examples(run)
    assert remember_rows(run, batch, lambda: list(ROWS)) == ROWS
    assert remember_rows(run, batch, refuse) == ROWS


def test_what_a_run_learns_changes_nothing(run: Experiment) -> None:
    before = locate_rows(run, examples(run))
    for parameter in run.module.denoiser.trained_parameters().values():
        torch.nn.init.normal_(parameter)
    assert locate_rows(run, examples(run)) == before


def change(what: str, run: Experiment, batch: Batch) -> tuple[Experiment, Batch]:
    painter = run.painter
    changed: dict[str, Any] = {
        "steps": lambda: replace(run, painter=replace(painter, steps=painter.steps + 1)),
        "known pixels": lambda: replace(run, painter=replace(painter, keep_known=False)),
        "seed": lambda: replace(run, evaluation=replace(run.evaluation, seed=1)),
        "precision": lambda: replace(run, trainer={**run.trainer, "precision": "bf16-mixed"}),
        "judge": lambda: replace(run, judge=Judge(1.0)),
        "no base": lambda: replace(run, untouched=None),
    }
    if what == "prompt":
        return run, replace(batch, prompt=["another", *batch.prompt[1:]])
    if what == "pixel":
        target = batch.target.clone()
        target[0, 0, 0, 0] = 1 - target[0, 0, 0, 0]
        return run, replace(batch, target=target)
    return changed[what](), batch


@pytest.mark.parametrize("what", ["steps", "known pixels", "seed", "precision", "judge", "no base", "prompt", "pixel"])
def test_anything_else_asks_for_rows_of_its_own(what: str, run: Experiment) -> None:
    batch = examples(run)
    remember_rows(run, batch, lambda: list(ROWS))
    with pytest.raises(AssertionError, match="judged again"):
        remember_rows(*change(what, run, batch), refuse)


def test_other_sources_of_ours_ask_for_new_rows(run: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    before = describe_baselines(run, examples(run))
    monkeypatch.setattr(baselines, "hash_sources", lambda: "other")
    assert describe_baselines(run, examples(run)) != before


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps([{"task": "edit"}]), "[" * 100])
def test_a_broken_file_is_made_again(content: str, run: Experiment, caplog: pytest.LogCaptureFixture) -> None:
    batch = examples(run)
    path = locate_rows(run, batch)
    path.parent.mkdir()
    path.write_text(content)
    assert remember_rows(run, batch, lambda: list(ROWS)) == ROWS
    assert "judged anew" in caplog.text
    assert remember_rows(run, batch, refuse) == ROWS


def test_a_cache_that_cannot_be_written_is_a_warning(
    run: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MTDIFF_CACHE", str(tmp_path / "file"))
    assert remember_rows(run, examples(run), lambda: list(ROWS)) == ROWS
    assert "cannot be written" in caplog.text
