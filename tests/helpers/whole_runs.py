"""Whole runs of experiments/run.py in this process: one small step of training, then every test example drawn once."""

import json
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from omegaconf import OmegaConf

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
]


def composed(overrides: list[str], configs: Path = CONFIGS) -> tuple[dict[str, Any], dict[str, str]]:
    """The checked configuration, and what was chosen of each group."""
    import composing

    with initialize_config_dir(str(configs), version_base=None):
        config = composing.composed([*SMALL, *overrides], with_hydra=True)
    chosen = {k: str(v) for k, v in config.hydra.runtime.choices.items()}
    return composing.checked(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])), chosen


def whole_run(folder: Path, *overrides: str, configs: Path = CONFIGS) -> dict[str, Any]:
    """`result.json` of a run in `folder`, which goes on where it was."""
    plain, chosen = composed([f"run_dir={folder}", *overrides], configs)
    import run

    folder.mkdir(parents=True, exist_ok=True)
    run.run_in(folder, plain, chosen)
    return json.loads((folder / "result.json").read_text())
