"""Whole runs of experiments/run.py in this process: one small step of training, then every test example drawn once."""

import json
from pathlib import Path
from typing import Any

from baselines.trivial import trivial
from mtdiff.commands.compose import read_configuration
from mtdiff.commands.run import run_in

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "experiments" / "configs"
SMALL = [
    "training.steps=1",
    "training.batch_size=4",
    "training.workers=0",
    "training.sample_every=null",
    "training.validate_every=null",
    "evaluation.per_task=2",
    "evaluation.validation_per_task=1",
    "evaluation.baselines=false",
    "sampling.steps=1",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "progress=false",
    "report=false",
]


def composed(overrides: list[str], configs: Path = CONFIGS) -> tuple[dict[str, Any], dict[str, str]]:
    """The checked configuration, and what was chosen of each group."""
    return read_configuration([*SMALL, *overrides], folder=configs)


def whole_run(folder: Path, *overrides: str, configs: Path = CONFIGS) -> dict[str, Any]:
    """`result.json` of a run in `folder`, which goes on where it was."""
    plain, chosen = composed([f"run_dir={folder}", *overrides], configs)
    folder.mkdir(parents=True, exist_ok=True)
    run_in(folder, plain, chosen, trivial)
    return json.loads((folder / "result.json").read_text())
