"""Costs of a whole drawing: all steps, of both models, whole or inheriting."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from method_cases import make
from tiny import TASKS, tiny_unet
from torch.utils.flop_counter import FlopCounterMode

from mtdiff.costs import drawing as costs_of_drawing
from mtdiff.costs.drawing import count_drawing
from mtdiff.costs.flops import CPU_KERNEL, encode_prompt, guide_row, make_condition
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.drawing import Switch
from mtdiff.model.inheritance import Inheritance
from mtdiff.model.painter import Painter
from mtdiff.model.sampling import Guidance
from mtdiff.results.record import Result

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture
def script(monkeypatch: Any) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.delitem(sys.modules, "cost", raising=False)
    yield importlib.import_module("cost")
    sys.modules.pop("cost", None)


def drawing(sampler: str = "ddim", **options: Any) -> Painter:
    denoiser = Denoiser(tiny_unet(), make("mtu"), TASKS[:2])
    scales = {"edit": Guidance(1.5, 3.0)}
    return Painter(denoiser=denoiser, guidance=scales, sampler=sampler, steps=6, **options)


INHERIT = Inheritance(level="layer", every=3, start=None, until=0, spacing="uniform", units=("ffn",))


def test_a_drawing_costs_what_its_steps_cost() -> None:
    """Against every call that a whole drawing makes, counted while it runs."""
    backbone = drawing().denoiser.backbone
    light = Denoiser(tiny_unet(), make("mtu"), TASKS[:2])
    light.backbone.denoiser.mid_block = None
    switch = Switch(light=light, until=500, first="light")
    totals = {}
    for name, options in {"": {}, "inherit": {"inherit": INHERIT}, "switch": {"switch": switch}}.items():
        painter = drawing(**options)  # type: ignore[arg-type]
        row = make_condition(backbone, encode_prompt(backbone), source=True, task=1)
        guided = guide_row(row, backbone.embed([""]), painter.guidance["edit"])
        assert len(guided) == 3
        found = count_drawing(painter, guided)
        with FlopCounterMode(display=False, custom_mapping=CPU_KERNEL) as counter:
            painter.draw_latents(row, torch.zeros_like(row.source))
        with FlopCounterMode(display=False, custom_mapping=CPU_KERNEL) as text:
            backbone.embed([""])
        assert found.total == counter.get_total_flops() - text.get_total_flops()
        assert found.attention > 0
        totals[name] = found.total
    assert totals["inherit"] < 0.7 * totals[""]
    assert 0.7 * totals[""] < totals["switch"] < totals[""]


def test_the_time_of_a_drawing_is_the_sum_over_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def measure(compute: Any, repeats: int, warmup: int, most_s: float) -> dict[str, float]:
        seen.append((compute().shape[0], most_s))
        return {"median": 10.0 if len(seen) == 1 else 1.0, "p95": 20.0}

    monkeypatch.setattr(costs_of_drawing, "measure_latency", measure)
    monkeypatch.setattr(costs_of_drawing, "PICTURE_S", 20.0)
    found = costs_of_drawing.measure_picture(drawing(inherit=INHERIT), [False, True])
    assert found["picture_ms"] == 2 * 10 + 4 * 1
    assert seen == [(3, 10.0), (3, 10.0)]
    assert found["picture_flops"] > found["picture_flops_no_attn"] > 0


def test_older_results_have_no_cost_of_a_drawing(tmp_path: Path) -> None:
    """The new keys may be missing."""
    made = Result("m", "b", "d", ["edit"], 0)
    older = {k: v for k, v in made.cost.items() if not k.startswith("picture")}
    made = replace(made, cost=older)
    made.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").cost == older


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("sampling.inherit={level: layer, every: 4}", "20 steps x 2 predictions, 15 inheriting,"),
        ("sampling.switch={light: mtu-nano, until: 500}", "20 steps x 2 predictions, 10 by the light model,"),
    ],
)
def test_the_command_adds_up_the_steps(
    option: str, said: str, script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script.main(["tasks=[edit]", "method=mtu", option, f"out={tmp_path / 'cost.json'}"])
    assert said in capsys.readouterr().out
    found = json.loads((tmp_path / "cost.json").read_text())["per_picture"]["edit"]
    whole = 20 * 2 * json.loads((tmp_path / "cost.json").read_text())["per_step"]["edit"]["flops"]
    expected = pytest.approx(whole, rel=1e-2) if "switch" in option else pytest.approx(0.4 * whole, rel=0.2)
    assert found["flops"] == expected
