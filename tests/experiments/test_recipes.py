"""The papers' recipes as suites, and the start of nano_dit's pre-training."""

from pathlib import Path

import pytest

from mtdiff.commands.compose import read_configuration
from mtdiff.commands.suites import plan_suite

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "experiments" / "configs"
SHIPPED_METRICS = ["metrics=embedded"]  # the published ones' weights may not be there
RUNS = {"mtu_sd15": 11, "mtu_sdxl": 8, "dtr_dit": 13}


@pytest.mark.parametrize("name", RUNS)
def test_a_recipe_plans_all_its_runs(name: str) -> None:
    runs = plan_suite(name, SHIPPED_METRICS)
    assert len(runs) == RUNS[name]
    header = (CONFIGS / "suite" / f"{name}.yaml").read_text()
    assert header.startswith(f"# python experiments/run.py suite={name} ")
    assert f"({RUNS[name]} runs on 8 GPUs). Result: not run." in header


def test_mtus_recipes_are_as_published() -> None:
    """Optimiser, rate, batch, size, steps of sampling and guidance of METHODS: arXiv 2503.11905."""
    for name, optimizer, lr, decay, steps, text in (
        ("mtu_sd15", "adam", 1e-4, 0, 20, (7.5, 7.5, 4.0)),
        ("mtu_sdxl", "adamw", 5e-5, 0.01, 50, (5.0, 10.0, 4.0)),
    ):
        first = plan_suite(name, SHIPPED_METRICS)[0]
        plain, _ = read_configuration(first.overrides)
        training, guidance = plain["training"], plain["sampling"]["guidance"]
        assert (training["optimizer"], training["lr"], training["weight_decay"]) == (optimizer, lr, decay)
        assert (training["batch_size"], plain["trainer"]["devices"], plain["backbone"]["size"]) == (16, 8, 512)
        assert plain["sampling"]["steps"] == steps
        assert tuple(guidance[task]["text"] for task in ("text_to_image", "edit", "inpaint")) == text
        assert guidance["super_resolution"] == {"image": 1, "text": 1}
        assert plain["task"]["super_resolution"]["scale"] == 2
        assert plain["task"]["inpaint"]["removal"] == 1
