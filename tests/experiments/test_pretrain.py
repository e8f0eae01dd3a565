"""Pre-training: every stage at tiny size, exact resumption, refusals; methods on the transformer that it leaves."""

import csv
import importlib
import json
import re
import resource
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from base_model import loop, work
from base_model.denoiser import LatentDenoiser
from base_model.judge import choose_portraits
from base_model.records import Records, describe_portrait
from diffusers import AutoencoderKL, StableDiffusionPipeline
from safetensors.torch import load_file
from whole_runs import whole_run

from mtdiff import load_run
from mtdiff.backbones import dit
from mtdiff.backbones.picture_encoder import PictureEncoder
from mtdiff.commands.command import guard
from mtdiff.data.emoji.source import EmojiSource

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "experiments" / "configs"
NANO = ["vae=mtdiff/assets/nano/vae", "text=mtdiff/assets/nano", "transformer.shape.patch_size=2"]
FOLLOWS = {"sample_size", "in_channels", "out_channels", "caption_channels", "patch_size"}  # from latents and text


@pytest.fixture(autouse=True)
def few_portraits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the thousands of portraits that would be encoded first."""
    make = work.Work.records

    def records(self: work.Work, *stage: Any) -> Records:
        made = make(self, *stage)
        made.portraits = made.portraits[:6]
        return made

    monkeypatch.setattr(work.Work, "records", records)


def pretrain(folder: Path, *overrides: str) -> Path:
    """The stages that are asked for, at tiny size, in `folder`."""
    settings = ("batch=2", "drawn=4", "budget.steps=4")
    small = [f"{name}.{setting}" for name in ("denoiser", "transformer") for setting in settings]
    outs = [f"{key}={folder / key}" for key in ("out", "transformer_out", "measure_out")]
    shape = ["transformer.shape.num_layers=2", "sampling.steps=1", "judge.number=3", "judge.floor=8", "device=cpu"]
    importlib.import_module("pretrain").main([f"work={folder}", *outs, *small, *shape, *overrides])
    return folder


def read_facts(folder: Path) -> Any:
    return json.loads((folder / "facts.json").read_text())


def test_all_stages_leave_a_pipeline_that_diffusers_reads(tmp_path: Path) -> None:
    clips = [f"{name}.{key}" for name in ("clip", "measure", "vision") for key in ("batch=3", "budget.steps=1")]
    small = ["autoencoder.batch=2", "autoencoder.budget.steps=2", "autoencoder.loss.turned=1", "denoiser.align=0.5"]
    folder = pretrain(tmp_path, *clips, *small, "denoiser.budget.muon=0.01", "denoiser.mixture.long=0.5")
    pipeline = StableDiffusionPipeline.from_pretrained(folder / "out")
    drawn = pipeline(["noto, crab"], num_inference_steps=1, output_type="np").images
    assert drawn.shape == (1, 64, 64, 3)
    facts = read_facts(folder)
    assert set(facts) == {"autoencoder", "clip", "measure", "vision", "denoiser", "transformer", "judge"}
    assert facts["denoiser"]["pictures"] == 8
    assert PictureEncoder(str(folder / "out")).encode(torch.zeros(1, 3, 64, 64)).shape == (1, 65, 64)
    assert {"truth", "floor", "denoiser", "transformer"} < set(facts["judge"])
    with (folder / "denoiser" / "state.pt").open("rb") as file:
        assert any(name.startswith("1.") for name in torch.load(file, weights_only=True)["model"])  # the head
    made = dit.load(str(folder / "transformer_out"), size=64, parts=str(folder / "out"), tokens=32)
    assert made.latent_shape == (16, 8, 8)
    assert len(list(folder.glob("encoded/pictures-*"))) == 2  # the aligned U-Net's, with what its tower saw


def test_denoisers_share_their_latents_and_a_better_decoder_leaves_them(tmp_path: Path) -> None:
    pretrain(tmp_path, "stages=[denoiser,transformer]", *NANO)
    (pictures,) = tmp_path.glob("encoded/pictures-*")
    made = pictures.stat().st_mtime_ns
    small = ["autoencoder.batch=2", "autoencoder.budget.steps=2", "autoencoder.channels=[32,64,96]"]
    further = ["autoencoder.start=mtdiff/assets/nano/vae", "autoencoder.decoder_only=true"]
    pretrain(tmp_path, "stages=[autoencoder]", "autoencoder.latent_channels=4", *small, *further)
    better = tmp_path / "autoencoder" / "model"
    start = f"denoiser.start={tmp_path}/denoiser/model"
    pretrain(tmp_path, "stages=[denoiser]", f"vae={better}", "denoiser.budget.steps=5", *NANO[1:])
    assert pictures.stat().st_mtime_ns == made
    assert len(list(tmp_path.glob("encoded/pictures-*"))) == 1
    one, other = (AutoencoderKL.from_pretrained(path).state_dict() for path in ("mtdiff/assets/nano/vae", better))
    changed = {name.split(".")[0] for name, value in one.items() if not value.equal(other[name])}
    assert changed == {"decoder", "post_quant_conv"}
    still = ["denoiser.budget.lr=0", "denoiser.budget.muon=0"]
    again = pretrain(tmp_path / "again", "stages=[denoiser]", *NANO, start, *still)
    file_name = "denoiser/model/diffusion_pytorch_model.safetensors"
    one, other = (load_file(folder / file_name) for folder in (tmp_path, again))
    assert all(torch.allclose(one[k], other[k], atol=1e-6) for k in one)


def test_a_pre_training_that_was_stopped_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute, calls = LatentDenoiser.compute_losses, []

    def stop(self: LatentDenoiser, batch: Any) -> Any:
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return compute(self, batch)

    stage = ["stages=[transformer]", *NANO]
    pretrain(tmp_path / "whole", *stage)
    train = loop.train_stage
    monkeypatch.setattr(work, "train_stage", partial(train, save_every_s=-1, log_every=1))
    monkeypatch.setattr(LatentDenoiser, "compute_losses", stop)
    with pytest.raises(KeyboardInterrupt):
        pretrain(tmp_path / "stopped", *stage)
    with (tmp_path / "stopped" / "transformer" / "log.csv").open("a") as file:
        file.write("3,0.1,0.5\n")  # of a step that was not saved
    pretrain(tmp_path / "stopped", *stage)
    assert len(calls) == 5  # two, one that was stopped, and the last two
    file_name = "transformer/model/diffusion_pytorch_model.safetensors"
    one, other = (load_file(tmp_path / name / file_name) for name in ("whole", "stopped"))
    assert all(one[k].equal(other[k]) for k in one.keys() | other.keys())
    with (tmp_path / "stopped" / "transformer" / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]


def test_states_that_do_not_fit_are_refused_in_one_line_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = ["stages=[transformer]", *NANO]
    state = pretrain(tmp_path, *stage) / "transformer" / "state.pt"
    content = state.read_bytes()

    def refuse(*overrides: str) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            guard(lambda: pretrain(tmp_path, *stage, *overrides) and None)
        said = capsys.readouterr().err.strip()
        assert stopped.value.code == 2
        assert len(said.splitlines()) == 1
        return said

    assert "was made with seed=0, asked for is 1" in refuse("seed=1")
    assert "was made with mixture=" in refuse("transformer.mixture.dropout=0.5")
    pretrain(tmp_path, *stage, "transformer.budget.steps=5")  # another end is no other configuration
    state.write_bytes(content)
    with monkeypatch.context() as other:
        other.setattr(work, "hash_data", lambda: "other")
        assert re.search(r"state.pt: was made with data=\"\w+\", asked for is \"other\"", refuse())
    assert state.read_bytes() == content
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) // 2, hard))  # as a full disk: no file may grow beyond
    try:
        said = refuse("transformer.budget.steps=6")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "state.pt: cannot be written" in said
    assert state.read_bytes() == content
    state.write_bytes(content[: len(content) // 2])
    assert "cannot be read" in refuse()
    assert state.read_bytes() == content[: len(content) // 2]


def test_a_stage_of_no_such_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"stages=paint: expected one of autoencoder, clip"):
        pretrain(tmp_path, "stages=[paint]")


def test_long_captions_tell_kind_and_colours() -> None:
    source = EmojiSource()
    told = {p.caption: describe_portrait(source.pack, p) for p in source.portraits("train")}
    (apple,) = (long for short, long in told.items() if short == "noto, green apple")
    assert apple.startswith("noto, green apple, food fruit, green")


def test_portraits_of_the_judge_are_of_several_bases_and_others_in_each_split() -> None:
    source = EmojiSource()
    one, other = (choose_portraits(source, 40, split) for split in ("validation", "test"))
    assert len(set(one.captions)) == 40
    assert not set(one.captions) & set(other.captions)


def test_architecture_of_nano_dit_is_the_pretrained_one() -> None:
    configured = yaml.safe_load((CONFIGS / "backbone" / "nano_dit.yaml").read_text())["backbone"]
    trained = yaml.safe_load((CONFIGS / "pretrain.yaml").read_text())["transformer"]["shape"]
    shapes = (configured["architecture"]["transformer"], trained)
    one, other = ({k: v for k, v in shape.items() if k not in FOLLOWS} for shape in shapes)
    assert one == other
    made = dit.load(**{**{k: v for k, v in configured.items() if k != "_target_"}, "weights": "meta"})
    assert 2e6 < sum(p.numel() for p in made.denoiser.parameters()) < 3e6


def test_a_new_base_takes_the_place_of_the_old_one_around_its_text_encoder(tmp_path: Path) -> None:
    """Also where the old denoiser was cut into more files; and nothing in it says where it was made."""
    out = tmp_path / "out"
    shutil.copytree(ROOT / "mtdiff" / "assets" / "nano", out)
    (out / "unet" / "diffusion_pytorch_model-00009-of-00009.safetensors").touch()
    kept = [out / "README.md", *(out / "text_encoder").iterdir(), *(out / "tokenizer").iterdir()]
    before = [path.read_bytes() for path in kept]
    pretrain(tmp_path, "stages=[denoiser,ship]", f"vae={out}/vae", f"text={out}", "denoiser.shape.channels=[32,64]")
    assert [path.read_bytes() for path in kept] == before
    assert sorted(path.name for path in (out / "unet").iterdir()) == [
        "config.json",
        "diffusion_pytorch_model.safetensors",
    ]
    assert not [path for path in out.glob("*/config.json") if str(tmp_path) in path.read_text()]
    made = StableDiffusionPipeline.from_pretrained(out)
    assert made.unet.config.block_out_channels == [32, 64]
    again = [f"work={tmp_path / 'again'}", "denoiser.shape.channels=[32,96]", f"denoiser.start={out}/unet"]
    with pytest.raises(ValueError, match=r"\Astart=.+: [^\n]+ expected a denoiser of that shape\Z"):
        pretrain(tmp_path, "stages=[denoiser]", f"vae={out}/vae", f"text={out}", *again)


def test_methods_on_a_pretrained_nano_dit(tmp_path: Path) -> None:
    """From pre-training to the results of two runs and a picture of each."""
    pretrain(tmp_path, "stages=[transformer,ship]", *NANO)
    base = str(tmp_path / "transformer_out")
    for method in ("mtu", "dtr"):
        result = whole_run(tmp_path / method, f"method={method}", "backbone=nano_dit", f"backbone.weights={base}")
        assert (result["status"], result["backbone"], result["method"]) == ("complete", "nano_dit", method)
        (picture,) = load_run(tmp_path / method, base=base)("text_to_image", "noto, crab")
        assert picture.size == (64, 64)


def test_nano_dit_is_missed_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dit, "find_shipped", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match=re.escape("make it with `python experiments/pretrain.py`")) as error:
        dit.load("nano_dit", parts="nano")
    assert "\n" not in str(error.value)
