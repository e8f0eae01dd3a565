"""The card of an exported pipeline: what it says is the run's, and its snippet draws what the run draws."""

import json
from dataclasses import replace
from pathlib import Path

import export
import numpy as np
import pytest
from PIL import Image, ImageOps
from run_folders import draw_with, hole, make_run, picture

from mtdiff import load_run
from mtdiff.model.sampling import Guidance
from mtdiff.results.record import Result, Row

GUIDANCE = {"text_to_image": {"text": 3.0}, "edit": {"image": 1.5, "text": 2.5}, "inpaint": {"image": 1.5, "text": 2.0}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run with a result beside its adapter."""
    folder = make_run(tmp_path_factory.mktemp("card") / "run")
    about = json.loads((folder / "adapter.json").read_text())
    about["sampling"] = {"sampler": "ddim", "steps": 4, "guidance": GUIDANCE}
    (folder / "adapter.json").write_text(json.dumps(about))
    rows = [Row("edit", "lpips_alex", "lower", 0.25, 64, 0.2, 0.3)]
    rows.append(Row("edit", "psnr", "higher", 9.5, 64, 9, 10, "copy"))
    rows.append(Row("edit", "fd", "lower", None, 0, None, None, reason="[a](http://b) <img src=x>"))
    config = {"data": {"_target_": "mtdiff.data.emoji.source.EmojiSource"}}
    Result("mtu", "nano", "emoji", ["edit"], 3, config=config, steps=480, rows=rows).save(folder / "result.json")
    return folder


def write(run: Path, task: str, out: Path) -> str:
    """The card of a task, exported as the command does it."""
    export.main([f"run={run}", f"task={task}", f"out={out}"])
    return (out / "README.md").read_text()


def test_a_card_tells_the_run_and_its_rows(run: Path, tmp_path: Path) -> None:
    card = write(run, "edit", tmp_path / "out")
    for words in (
        "mtdiff.methods.mtu.MTU",
        "480 steps",
        "seed 3",
        "ddim, 4 steps",
        "16 px",
        "Noto Emoji",
        "Apache-2.0",
    ):
        assert words in card, words
    assert "| this one | lpips_alex | lower | 0.25 | 0.2 to 0.3 | 64 |" in card
    assert "| copy | psnr | higher | 9.5 | 9 to 10 | 64 |" in card
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"README.md", "NOTICE.md", "LICENSE", "unet"}


def test_foreign_text_in_a_card_is_text(run: Path, tmp_path: Path) -> None:
    card = write(run, "edit", tmp_path / "out")
    assert "<img" not in card
    assert "[a](" not in card


def test_a_run_without_a_result_says_so(tmp_path: Path) -> None:
    card = write(make_run(tmp_path / "run"), "edit", tmp_path / "out")
    assert "not known: the run's result.json is not there" in card
    assert "Not known: no `result.json`" in card


@pytest.mark.parametrize("task", ["text_to_image", "edit", "super_resolution", "inpaint"])
def test_the_snippet_draws_what_the_run_draws(
    task: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the run is judged, known pixels held and pasted; but for the image guidance that one pipeline lacks."""
    card = write(run, task, tmp_path / "out")
    model = load_run(run)
    if task == "inpaint":
        model.painter = replace(model.painter, guidance={task: Guidance(1.0, 2.0)})
        assert "The pipeline has no image guidance" in card
    ours, theirs = draw_with(tmp_path / "out", model, task, {"image": picture(), "mask": hole()}, monkeypatch)
    assert np.abs(ours - theirs).max() <= 1.5 / 255


def test_the_snippet_reads_masks_by_our_rule(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One hole, drawn as white on black, as strokes on a layer, erased from a black layer, and with soft edges."""
    write(run, "inpaint", tmp_path / "out")
    plain, model = hole(), load_run(run)
    white, black = Image.new("L", plain.size, 255), Image.new("L", plain.size, 0)
    soft = plain.point(lambda value: 200 if value else 60)
    masks = [plain, Image.merge("LA", (white, plain)), Image.merge("LA", (black, ImageOps.invert(plain))), soft]
    drawn = []
    for mask in masks:
        mask.convert("RGBA").save(tmp_path / "out" / "mask.png")
        given = {"image": picture(), "mask": mask.convert("RGBA")}
        drawn.append(draw_with(tmp_path / "out", model, "inpaint", given, monkeypatch)[1])
        (ours,) = model("inpaint", "noto, crab", picture(), mask)
        (expected,) = model("inpaint", "noto, crab", picture(), plain)
        assert np.array_equal(ours, expected)
    for other in drawn[1:]:
        assert np.abs(drawn[0] - other).max() <= 1 / 255
