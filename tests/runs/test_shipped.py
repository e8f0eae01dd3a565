"""The adapters inside the package: a model of four tasks before anyone has trained."""

import importlib
import json
from pathlib import Path

import pytest
import torch
from forked import run_script
from PIL import Image
from run_folders import about_changed, make_run
from safetensors.torch import load_file

from mtdiff import load_run
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.module import MixtureModule
from mtdiff.metrics.alexnet import lpips_alex
from mtdiff.runs import adapter
from mtdiff.runs.adapter import ADAPTERS, list_shipped
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.types import Batch

ROOT = Path(__file__).parents[2]


def test_they_are_small_and_safe() -> None:
    files = [path for path in ADAPTERS.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert sum(path.stat().st_size for path in files) <= 5 * 2**20
    assert list(list_shipped()) == ["mtu-nano"]


@torch.no_grad()
def test_it_restores_unseen_emoji_better_than_bicubic() -> None:
    model = load_run("mtu-nano")
    assert list(model.tasks) == ["text_to_image", "edit", "super_resolution", "inpaint"]
    task = model.tasks["super_resolution"]
    assert isinstance(task, SuperResolution)
    data = MixtureModule(EmojiSource(), {"super_resolution": task}, test_per_task=12)
    batch = Batch.collate([data.test[i] for i in range(12)])
    drawn = model("super_resolution", image=list(batch.source))
    pixels = torch.stack([torch.frombuffer(bytearray(p.tobytes()), dtype=torch.uint8) for p in drawn])
    answers = pixels.view(12, 64, 64, 3).permute(0, 3, 1, 2).float() / 127.5 - 1
    distance = lpips_alex()
    ours, bicubic = (float(distance(x, batch.target).mean()) for x in (answers, batch.source))
    assert ours < 0.7 * bicubic


def test_what_is_left_of_the_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base draws most of a few training emoji (chance: 1 in 12); a run is held against the same pictures."""
    monkeypatch.syspath_prepend(ROOT / "experiments" / "studies")
    forgetting = importlib.import_module("forgetting")
    forgetting.main(["runs=mtu-nano", "number=12", f"out={tmp_path / 'out.json'}"])
    kept = json.loads((tmp_path / "out.json").read_text())
    assert (kept["number"], list(kept["rows"])) == (12, ["base", "mtu-nano"])
    base, run = kept["rows"].values()
    assert base["own_emoji"] >= 0.6
    for row, line in zip((base, run), capsys.readouterr().out.splitlines(), strict=True):
        assert 0 <= row["low"] <= row["own_emoji"] <= row["high"] <= 1
        assert line.lstrip().startswith(f"{row['own_emoji']:.1%} [")
    tiny = make_run(tmp_path / "tiny")
    edits = about_changed(tiny, tmp_path / "edits", lambda about: about.update(tasks=["edit"]))
    (tmp_path / "failed").mkdir()
    assert list(forgetting.read_runs(f"mtu-nano,{tmp_path / 'failed'}")) == ["mtu-nano"]
    assert "left out: " in capsys.readouterr().err
    for wrong, words in (
        ("runs=mtu-nano,nope", "runs=nope: no run folder, nor a shipped adapter"),
        (f"runs=mtu-nano,{tiny}", "another base than mtu-nano"),
        (f"runs={edits}", "was not trained on text_to_image"),
    ):
        with pytest.raises(ValueError, match=words):
            forgetting.main([wrong])


def test_sample_by_name(tmp_path: Path) -> None:
    given = ["run=mtu-nano", "task=text_to_image", "prompt=noto, robot face", "steps=2", f"out={tmp_path / 'out.png'}"]
    done = run_script("experiments/sample.py", *given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "out.png").size == (64, 64)


def test_a_run_is_kept_in_half_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "experiments")
    ship = importlib.import_module("ship")
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(adapter, "ADAPTERS", tmp_path / "adapters")
    ship.main([f"run={run}", "name=tiny"])
    own, kept = (load_file(folder / "adapter.safetensors") for folder in (run, tmp_path / "adapters" / "tiny"))
    assert {k: v.half().tolist() for k, v in own.items()} == {k: v.tolist() for k, v in kept.items()}
    assert all(v.dtype == torch.float16 for v in kept.values())
    assert load_run("tiny").size == 16
    for name, words in (("../out", "expected letters"), ("large", "expected at most 5")):
        monkeypatch.setattr(ship, "LARGEST", 1)
        with pytest.raises(ValueError, match=words):
            ship.main([f"run={run}", f"name={name}"])


def test_a_folder_that_is_neither() -> None:
    with pytest.raises(ValueError, match=r"^run=mtu-nan: no such folder, nor a shipped adapter \(mtu-nano\)$"):
        load_run("mtu-nan")
