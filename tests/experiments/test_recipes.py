"""The papers' recipes as suites, and the start of nano_dit's pre-training."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from base_model import pretraining as pretraining_of
from base_model.pretraining import Records, TransformerDenoiser, prompted
from safetensors.torch import load_file
from whole_runs import whole_run

from mtdiff import load_run
from mtdiff.backbones import dit
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


def test_architecture_of_nano_dit_is_the_pretrained_one() -> None:
    configured = yaml.safe_load((CONFIGS / "backbone" / "nano_dit.yaml").read_text())["backbone"]
    assert configured["architecture"]["transformer"] == pretraining()["transformer"]["model"]
    options = {k: v for k, v in configured.items() if k != "_target_"}
    made = dit.load(**{**options, "weights": "meta"})
    around = dit.around_nano(configured["architecture"]["transformer"])
    assert made.latent_shape == around.latent_shape == (4, 16, 16)
    shapes = {k: v.shape for k, v in made.state_dict().items() if not k.startswith("text_encoder")}
    assert shapes == {k: v.shape for k, v in around.state_dict().items() if not k.startswith("text_encoder")}
    assert made.embed(["a cat"]).tokens.shape == around.embed(["a cat"]).tokens.shape
    assert 5e6 < sum(p.numel() for p in around.denoiser.parameters()) < 8e6  # in float16 below 16 MiB, the largest file


def pretraining() -> Any:
    return yaml.safe_load((CONFIGS / "pretrain.yaml").read_text())


def pretrained(folder: Path, steps: int = 3) -> dict[str, Any]:
    """The configuration of a pre-training at tiny size, done in `folder`."""
    import pretrain

    class Few(pretrain.Builder):
        """Of the thousands of portraits that would be encoded first."""

        def records(self, *stage: Any) -> Records:
            records = super().records(*stage)
            records.portraits = records.portraits[:6]
            return records

    config = pretraining()
    config |= {"work": str(folder / "work"), "device": "cpu", "sampling": {"steps": 1, "guidance": 3.0}}
    made = {"out": str(folder / "out"), "steps": steps, "batch": 4, "drawn": 4, "measured": 4}
    config["transformer"] |= made
    config["transformer"]["model"] |= {"num_layers": 2}
    Few(config).transformer()
    return config


def test_nano_dit_trains_three_steps_and_is_read_again(tmp_path: Path) -> None:
    config = pretrained(tmp_path)
    assert (tmp_path / "work" / "transformer" / "samples" / "000003.png").exists()
    read = dit.load(str(tmp_path / "out"), size=64, parts="nano", tokens=32)
    fresh = dit.around_nano(config["transformer"]["model"], config["seed"])
    now = read.denoiser.state_dict()
    moved = [k for k, v in fresh.denoiser.state_dict().items() if not torch.equal(v.half().float(), now[k])]
    assert len(moved) > 20
    latent, t = torch.randn(2, 4, 16, 16), torch.tensor([10, 900])
    with torch.no_grad():
        assert read.predict(latent, t, prompted(read, ["a cat", ""])).shape == latent.shape
        assert not fresh.predict(latent, t, prompted(fresh, ["a cat", ""])).any()


def test_pre_training_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after two of four steps, it leaves the weights of one that was not."""
    monkeypatch.setattr(pretraining_of, "train", partial(pretraining_of.train, save_every_s=0.0))
    pretrained(tmp_path / "whole", 4)
    loss, calls = TransformerDenoiser.loss, []

    def stopping(self: TransformerDenoiser, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return loss(self, batch)

    monkeypatch.setattr(TransformerDenoiser, "loss", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrained(tmp_path / "stopped", 4)
    pretrained(tmp_path / "stopped", 4)
    assert len(calls) == 5
    file = "out/transformer/diffusion_pytorch_model.safetensors"
    one, other = (load_file(tmp_path / name / file) for name in ("whole", "stopped"))
    assert all(one[k].equal(other[k]) for k in one.keys() | other.keys())


@pytest.mark.parametrize("method", ["mtu", "dtr"])
def test_methods_on_a_pretrained_nano_dit(method: str, tmp_path: Path) -> None:
    """From pre-training to a run's result and a picture of the run."""
    pretrained(tmp_path, 1)
    base = str(tmp_path / "out")
    result = whole_run(tmp_path / "run", f"method={method}", "backbone=nano_dit", f"backbone.weights={base}")
    assert (result["status"], result["backbone"], result["method"]) == ("complete", "nano_dit", method)
    (picture,) = load_run(tmp_path / "run", base=base)("text_to_image", "noto, crab")
    assert picture.size == (64, 64)


def test_nano_dit_is_missed_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dit, "shipped", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match=re.escape("pretrain.py backbone=nano_dit")) as error:
        dit.load("nano_dit", parts="nano")
    assert "\n" not in str(error.value)
