"""Faster drawings as a user asks for them: recorded by a run, over a run's own settings, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from run_folders import about_changed, copied, make_run, picture, tensors_changed
from whole_runs import composed, whole_run

from mtdiff.backbones import stable_diffusion
from mtdiff.backbones.base import Backbone
from mtdiff.commands.run import hash_configuration
from mtdiff.errors import ConfigError
from mtdiff.results.record import Result
from mtdiff.runs.checks import check_constructors
from mtdiff.runs.load import load_run
from mtdiff.runs.model import Model

INHERIT = {"level": "layer", "every": 2, "from": 900}


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture(scope="module")
def light(full: Path) -> Path:
    """A run with other weights on the same base."""

    def move(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.add_(0.1)

    return tensors_changed(full, full.with_name("light"), move)


def draw(model: Model) -> np.ndarray:
    drawn = model(["edit", "text_to_image"], ["make it blue", "a crab"], [picture(), None])
    return np.stack([np.asarray(p).astype(int) for p in drawn])


def test_options_over_those_of_a_run(full: Path, light: Path) -> None:
    steps = {"steps": 4}
    plain = draw(load_run(full, sampling=steps))
    assert load_run(full, sampling=steps).painter.steps == 4
    for options in ({"inherit": {**INHERIT, "every": 1}}, {"switch": {"light": str(full), "until": 500}}):
        assert (draw(load_run(full, sampling={**steps, **options})) == plain).all()
    for options in ({"inherit": INHERIT}, {"switch": {"light": str(light), "until": 500}}):
        assert (draw(load_run(full, sampling={**steps, **options})) != plain).any()
    whole = {"switch": {"light": str(light), "until": 0}}
    assert (draw(load_run(full, sampling=whole)) == draw(load_run(light))).all()
    model = load_run(full, sampling={"switch": whole["switch"]})
    assert model.painter.switch is not None
    other, own = model.painter.switch.light.backbone, model.painter.denoiser.backbone
    assert other.denoiser is not own.denoiser
    assert other.vae is own.vae  # type: ignore[comparison-overlap]


def test_a_run_draws_as_it_was_evaluated(full: Path, tmp_path: Path) -> None:
    own = about_changed(full, tmp_path / "run", lambda about: about["sampling"].update(inherit=INHERIT, steps=4))
    assert (draw(load_run(own)) == draw(load_run(full, sampling={"inherit": INHERIT, "steps": 4}))).all()
    assert (draw(load_run(own, sampling={"inherit": None})) == draw(load_run(full, sampling={"steps": 4}))).all()


def test_a_run_leads_to_no_other_run(full: Path, light: Path, tmp_path: Path) -> None:
    """Nothing in a folder of someone else chooses what is read; its user may."""
    switch = {"light": str(light), "until": 500}
    own = about_changed(full, tmp_path / "run", lambda about: about["sampling"].update(switch=switch))
    with pytest.raises(ValueError, match=r"\A[^\n]*light: a run may not lead to other files[^\n]*switch=null\Z"):
        load_run(own)
    assert (draw(load_run(own, sampling={"switch": None})) == draw(load_run(full))).all()
    assert (draw(load_run(own, sampling={"switch": switch})) != draw(load_run(full))).any()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"inherit": {"level": "row", "every": 2}}, r"sampling.inherit.level=row: expected one of block, layer, unit"),
    ({"inherit": {"level": "block", "every": 0}}, r"sampling.inherit.every=0: expected at least 1"),
    ({"steps": 0}, r"sampling.steps=0: expected 1 to 1000"),
    ({"step": 3}, r"sampling.step=3: no such option \(did you mean 'steps'\?\)[^\n]*"),
    ({"switch": {"light": "nowhere", "until": 5}}, r"sampling.switch.light=nowhere: no such folder[^\n]*"),
]


@pytest.mark.parametrize(("options", "line"), WRONG)
def test_mistakes_get_one_line(options: dict[str, Any], line: str, full: Path) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}\Z"):
        load_run(full, sampling=options)


def test_another_base_is_refused_before_anything_is_loaded(
    full: Path, light: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = about_changed(light, tmp_path / "seeded", lambda about: about["backbone"].update(seed=3))
    recorded = about_changed(light, tmp_path / "recorded", lambda about: about.update(base="0" * 64))
    hashed = about_changed(full, tmp_path / "hashed", lambda about: about.update(base="1" * 64))
    fewer = about_changed(light, tmp_path / "fewer", lambda about: about.update(tasks=["edit"]))
    with pytest.raises(ValueError, match=r"\A[^\n]*recorded/adapter.json: was trained on the base[^\n]*\Z"):
        load_run(full, sampling={"switch": {"light": str(recorded), "until": 500}})  # by the weights themselves
    monkeypatch.setattr(stable_diffusion, "load", None)
    for own, other in ((full, seeded), (hashed, recorded)):
        with pytest.raises(ValueError, match=r"\Asampling.switch.light=[^\n]*: is on another base; expected[^\n]*\Z"):
            load_run(own, sampling={"switch": {"light": str(other), "until": 500}})
    with pytest.raises(ValueError, match=r"\Asampling.switch.light=[^\n]*: was not trained for text_to_image, [^\n]*"):
        load_run(full, sampling={"switch": {"light": str(fewer), "until": 500}})
    with pytest.raises(ValueError, match=r"\Asampling.switch.light=mtu-nano: is on another base"):
        composed(["backbone=sd15", "sampling.switch={light: mtu-nano, until: 9}"])
    with pytest.raises(ConfigError, match=r"\Aspeed.compile=true: expected false with sampling.inherit\Z"):
        composed(["sampling.inherit={level: block, every: 2}", "speed.compile=true"])


def load_bare() -> "Bare":
    raise AssertionError("nothing is loaded")


class Bare(stable_diffusion.StableDiffusion):
    levels = ()
    parts = Backbone.parts


def test_a_backbone_that_names_nothing(full: Path) -> None:
    node = {"_target_": f"{__name__}.load_bare"}
    plain, _ = composed(["sampling.inherit={level: block, every: 2}"])
    with pytest.raises(ConfigError, match=r"\Asampling.inherit=[^\n]*: expected null, since load_bare names nothing"):
        check_constructors({**plain, "backbone": node})
    check_constructors({**plain, "backbone": node, "sampling": {**plain["sampling"], "inherit": None}})


def test_the_default_run_is_the_same_experiment() -> None:
    plain, _ = composed([])
    older = {k: v for k, v in plain["sampling"].items() if k not in ("inherit", "switch")}
    assert hash_configuration({**plain, "sampling": older}) == hash_configuration(plain)
    faster, _ = composed(["sampling.inherit={level: block, every: 2}"])
    assert hash_configuration(faster) != hash_configuration(plain)


def test_a_whole_run_with_both(tmp_path: Path) -> None:
    """Trained, evaluated and recorded; then the same folder is loaded and exported from."""
    inherit, switch = (
        "sampling.inherit={level: unit, every: 2, units: [ffn]}",
        "sampling.switch={light: mtu-nano, until: 500}",
    )
    found = whole_run(tmp_path / "run", inherit, switch, "sampling.steps=4", "method=ia3", "evaluation.baselines=true")
    assert found["status"] == "complete"
    about = json.loads((tmp_path / "run" / "adapter.json").read_text())
    for recorded in (found["config"]["sampling"], about["sampling"]):
        assert recorded["inherit"] == {"level": "unit", "every": 2, "units": ["ffn"]}
        assert recorded["switch"] == {"light": "mtu-nano", "until": 500}
    assert Result.load(tmp_path / "run" / "result.json").status == "complete"
    painter = load_run(copied(tmp_path / "run", tmp_path / "copy")).painter
    assert painter.inherit is not None
    assert painter.switch is not None
