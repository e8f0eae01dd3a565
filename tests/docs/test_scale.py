"""docs/scale.md: its commands, at tiny size, go from random weights to a pipeline of diffusers."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import StableDiffusionInstructPix2PixPipeline
from PIL import Image
from tiny import UNET
from tiny_transformer import SCHEDULER, TINY_CLIP, TINY_VAE
from whole_runs import ROOT, composed

from baselines.trivial import trivial
from mtdiff.commands.run import run_in

TINY = {"unet": UNET, "vae": TINY_VAE, "text_encoder": TINY_CLIP, "scheduler": SCHEDULER}


def commands() -> dict[str, list[str]]:
    """Arguments of the documented commands, by script."""
    text = (ROOT / "docs" / "scale.md").read_text().split("```bash\n")[1].split("python - <<")[0]
    lines = (shlex.split(line) for line in text.replace("\\\n", " ").splitlines())
    return {Path(words[1]).stem: words[2:] for words in lines if words}


def test_the_documented_run_is_small_where_it_can_be() -> None:
    plain, _ = composed(commands()["run"])
    training, evaluation = plain["training"], plain["evaluation"]
    assert plain["backbone"]["weights"] == "random"
    assert plain["backbone"]["size"] == plain["data"]["size"] == 512
    assert plain["method"]["experts"] == 4
    assert (training["steps"], training["batch_size"], training["ema_decay"]) == (2, 1, None)
    assert (evaluation["batch_size"], evaluation["baselines"]) == (1, False)


def test_the_documented_commands_at_tiny_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = commands()
    plain, chosen = composed([*given["run"], "backbone.size=64", "data.size=64"])
    plain["backbone"]["architecture"] = TINY
    import export
    import sample

    folder = Path(plain["run_dir"])
    folder.mkdir(parents=True)
    run_in(folder, plain, chosen, trivial)
    assert list((folder / "checkpoints").glob("step-00000002-*.ckpt"))
    Image.new("RGB", (64, 64), "green").save(folder / "samples" / "edit.png")
    sample.main(given["sample"])
    assert Image.open("edit.png").size == (64, 64)
    export.main(given["export"])
    assert "StableDiffusionInstructPix2PixPipeline" in capsys.readouterr().out
    pipe = StableDiffusionInstructPix2PixPipeline.from_pretrained("runs/sd15-edit")
    picture = Image.new("RGB", (64, 64), "white")
    out: Any = pipe("make it red", image=picture, num_inference_steps=2, output_type="np").images
    assert out.shape == (1, 64, 64, 3)
    assert np.isfinite(out).all()
