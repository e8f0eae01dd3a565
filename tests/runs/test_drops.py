"""The ranking of what a base can do without."""

import json
from pathlib import Path

import pytest
import torch
from tiny import tiny_unet
from tiny_families import FAMILIES
from tiny_fits import batch
from whole_runs import ROOT

from mtdiff.costs.flops import count_flops
from mtdiff.runs.drops import Noised, describe_drops, rank_drops


def test_errors_and_savings_are_those_of_the_networks() -> None:
    base = tiny_unet()
    noised = Noised.of(base, batch(), 0)
    assert sorted(noised.t.tolist()) == [125, 375, 625, 875]
    found = rank_drops(base, noised, repeats=2)
    assert {drop.name for drop in found} == set(base.drops())
    assert [drop.error for drop in found] == sorted(drop.error for drop in found)
    middle = next(drop for drop in found if drop.name == "middle")
    lighter = tiny_unet()
    lighter.drops()["middle"]()
    predictions = [noised.predict(model) for model in (lighter, base)]
    expected = (predictions[0] - predictions[1]).pow(2).mean() / predictions[1].pow(2).mean()
    assert middle.error == pytest.approx(float(expected))
    sizes, flops = (
        [f(model) for model in (lighter, base)]
        for f in (
            lambda model: sum(p.numel() for p in model.denoiser.parameters()),
            lambda model: count_flops(model.denoiser, lambda: noised.predict(model, slice(0, 1))).total,
        )
    )
    assert middle.parameters == pytest.approx(1 - sizes[0] / sizes[1])
    assert middle.flops == pytest.approx(1 - flops[0] / flops[1])
    assert middle.latency is not None
    assert middle.latency[1] <= middle.latency[0] <= middle.latency[2] < 1
    assert len(list(describe_drops(found))) == 1 + len(found)
    assert base.denoiser.mid_block is not None, "the base is left as it was"


@pytest.mark.parametrize("family", ["transformer", "joint", "label"])
def test_transformers_have_blocks(family: str) -> None:
    base = FAMILIES[family]()
    found = rank_drops(base, Noised.of(base, batch(), 0), repeats=0)
    assert {drop.name for drop in found} == set(base.drops())
    assert all(drop.error > 0 and drop.latency is None for drop in found)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "experiments")
    import rank_drops as command

    out = tmp_path / "ranking.json"
    with torch.random.fork_rng():
        command.main([f"out={out}", "repeats=1", "evaluation.validation_per_task=1", "tasks=[text_to_image,edit]"])
    ranking = json.loads(out.read_text())
    assert ranking["examples"] == 2
    names = [drop["name"] for drop in ranking["drops"]]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["part", *names]
