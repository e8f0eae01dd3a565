"""A user's own pictures: folders, saved data sets, repositories; what is wrong with them said in one line."""

import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from forked import run_script
from little_sets import all_four, captioned, encoded, number, pairs, picture, saved, write_folder
from PIL import Image
from torch.utils.data import DataLoader

from mtdiff.data.mixture import Mixture
from mtdiff.data.tables.cells import crop_to
from mtdiff.data.tables.checker import check_source, problems
from mtdiff.data.tables.folder import Folder
from mtdiff.data.tables.hub import Hub, Part
from mtdiff.data.tables.source import TableSource
from mtdiff.data.tables.table import Unavailable, held_out
from mtdiff.files.pictures import Unreadable, open_picture, to_rgb
from mtdiff.tasks.base import Task
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import SPLITS, Need

ROOT = Path(__file__).parents[2]
TASKS: list[Task] = [TextToImage(), Edit(), SuperResolution(), Inpaint()]
NEEDS: list[Need] = ["caption", "edit", "picture", "removal"]


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# Records


def test_folders_feed_all_four_tasks_in_every_split(tmp_path: Path) -> None:
    source = TableSource(**all_four(tmp_path), size=16)  # type: ignore[arg-type]
    for split in SPLITS:
        mixture = Mixture(source, TASKS, [1.0] * 4, split)
        examples = [mixture[i] for i in range(16)]
        assert {e.task for e in examples} == {0, 1, 2, 3}
        assert all(e.target.shape == (3, 16, 16) for e in examples)
        edit = next(e for e in examples if e.task == 1)
        i = int(edit.prompt.split()[1])
        assert (number((edit.source + 1) * 127.5), number((edit.target + 1) * 127.5)) == (i, i + 500)
        assert (edit.source_caption, edit.target_caption) == (f"before {i}", f"after {i}")


def test_a_folder_is_read_as_datasets_reads_it(tmp_path: Path) -> None:
    folder = pairs(tmp_path / "pairs" / "train", 5)
    theirs = datasets.load_dataset("imagefolder", data_dir=str(folder.parent), cache_dir=str(tmp_path / "cache"))
    table = Folder(str(folder.parent), held_out=0.0)
    assert set(theirs["train"].column_names) == set(table.names("train"))
    for i, row in enumerate(theirs["train"]):
        ours = table.row("train", i).columns
        for name, value in row.items():
            if isinstance(value, Image.Image):
                assert np.array_equal(np.asarray(value), np.asarray(to_rgb(open_picture(ours[name]))))
            else:
                assert value == ours[name]


def test_split_folders_are_kept(tmp_path: Path) -> None:
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        captioned(tmp_path / split, count, first=10 * count)
    table = Folder(str(tmp_path))
    assert [table.size(s) for s in SPLITS] == [5, 3, 2]
    assert table.row("validation", 0).columns["text"] == "picture 30"


def test_pictures_alone_need_no_metadata(tmp_path: Path) -> None:
    for i in range(8):
        (tmp_path / "set" / "deep").mkdir(parents=True, exist_ok=True)
        picture(i).save(tmp_path / "set" / "deep" / f"{i}.png")
    (tmp_path / "set" / "notes.txt").write_text("no picture")
    source = TableSource(picture=Folder(str(tmp_path / "set"), held_out=0.0), size=16)
    assert [number(source.record("picture", "train", i, rng()).image) for i in range(8)] == list(range(8))
    with pytest.raises(ValueError, match=r"set \(without metadata\.jsonl\): no column caption .*there are image"):
        TableSource(caption=str(tmp_path / "set"))
    captioned(tmp_path / "split" / "train", 4)
    (tmp_path / "split" / "train" / "metadata.jsonl").unlink()
    (tmp_path / "split" / "test").mkdir()
    picture(9).save(tmp_path / "split" / "test" / "9.PNG")
    table = Folder(str(tmp_path / "split"), held_out=0.25)
    assert [table.size(s) for s in SPLITS] == [3, 1, 1]
    assert table.row("test", 0).key == "split/test/9.PNG#0"
    (tmp_path / "split" / "train").rename(tmp_path / "split" / "pictures")
    assert [Folder(str(tmp_path / "split"), held_out=0.0).size(s) for s in SPLITS] == [4, 0, 1]


def test_held_out_rows_are_apart_and_rows_of_one_picture_together() -> None:
    groups = [f"{i // 3}.png" for i in range(300)]
    division = held_out(groups, 0.1, ("validation", "test"))
    by_split = {s: {g for g, d in zip(groups, division, strict=True) if d == s} for s in SPLITS}
    assert [len(by_split[s]) for s in SPLITS] == [80, 10, 10]
    assert not by_split["train"] & by_split["test"]
    assert not by_split["validation"] & (by_split["train"] | by_split["test"])
    assert held_out(groups[::-1], 0.1, ("validation", "test")) == division[::-1]


def test_saved_data_set_and_folder_give_the_same_pictures(tmp_path: Path) -> None:
    one = TableSource(edit=str(saved(tmp_path / "saved", 6)), size=16)
    two = TableSource(edit=Folder(str(pairs(tmp_path / "folder", 6)), held_out=0.0), size=16)
    found = {}
    for split in SPLITS:
        for i in range(one.size("edit", split)):
            record = one.record("edit", split, i, rng())
            found[record.instruction] = record
    assert len(found) == 6
    for i in range(6):
        record = two.record("edit", "train", i, rng())
        again = found[record.instruction]
        assert torch.equal(record.image, again.image)
        assert record.edited is not None
        assert again.edited is not None
        assert torch.equal(record.edited, again.edited)


def test_parts_of_a_split_are_split_by_number(tmp_path: Path) -> None:
    folder = str(saved(tmp_path, 10))
    table = Hub(folder, splits={"train": "train[:6]", "validation": "train[6:]", "test": "train[8:]"})
    assert [table.size(s) for s in SPLITS] == [6, 4, 2]
    assert table.row("test", 0).columns["edit_prompt"] == "change 8"
    assert Part.parse("train[5:]") == Part("train", 5, None)
    assert [str(Part.parse(text)) for text in ("train", "train[5:]", "dev[:3]")] == ["train", "train[5:]", "dev[:3]"]
    with pytest.raises(ValueError, match=r"splits\.test=train\[20:\]: no rows; train has 10$"):
        Hub(folder, splits={"train": "train[:5]", "test": "train[20:]"})
    with pytest.raises(ValueError, match="no split 'dev'; expected one of train"):
        Hub(folder, splits={"train": "dev"})


def test_one_of_several_captions_is_drawn(tmp_path: Path) -> None:
    lines = [{"file_name": "0.png", "captions": ["one", "two", " ", "three"]}]
    folder = write_folder(tmp_path, lines, {"0.png": picture(0)})
    source = TableSource(caption=Folder(str(folder), held_out=0.0), size=16)
    drawn = {source.record("caption", "train", 0, np.random.default_rng(s)).caption for s in range(30)}
    assert drawn == {"one", "two", "three"}


def test_columns_of_any_name(tmp_path: Path) -> None:
    lines = [{"file_name": "a.png", "wort": "hallo"}]
    folder = write_folder(tmp_path, lines, {"a.png": picture(3)})
    with pytest.raises(ValueError, match=r"data\.caption: .*no column caption or captions.*there are image, wort"):
        TableSource(caption=Folder(str(folder), held_out=0.0))
    source = TableSource(caption=Folder(str(folder), columns={"caption": "wort"}, held_out=0.0), size=16)
    assert source.record("caption", "train", 0, rng()).caption == "hallo"
    with pytest.raises(ValueError, match=r"columns\.words: expected one of image, caption"):
        Folder(str(folder), columns={"words": "wort"})


# Pictures


def test_the_largest_centred_square_is_taken() -> None:
    wide = Image.new("RGB", (64, 32), "red")
    wide.paste(Image.new("RGB", (32, 32), "blue"), (16, 0))
    assert torch.equal(crop_to(wide, 16, 16), crop_to(Image.new("RGB", (16, 16), "blue"), 16, 16))
    same = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    assert np.array_equal(crop_to(same, 16, 16).permute(1, 2, 0).numpy(), np.asarray(same))


def test_transparency_is_white_and_exif_turns() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(open_picture(encoded(clear))).getpixel((0, 0)) == (255, 255, 255)
    turned = picture(5, 48, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(file := BytesIO(), "JPEG", exif=exif)
    assert to_rgb(open_picture(file.getvalue())).size == (32, 48)


def test_pictures_of_sixteen_bits_keep_their_range() -> None:
    grey = Image.fromarray(np.array([[0, 32896, 65535]], np.uint16))
    shown = to_rgb(open_picture(encoded(grey)))
    assert [shown.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]
    wide = Image.fromarray(np.array([[0, 2**20]], np.int32))
    with pytest.raises(Unreadable, match="more than 16 bits"):
        to_rgb(open_picture(encoded(wide, "TIFF")))
    with pytest.raises(Unreadable, match="floating-point"):
        to_rgb(open_picture(encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header() -> None:
    """The header promises 10,000 x 10,000 pixels; the data are missing, so decoding would fail otherwise."""
    header = b"IHDR" + (10_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    file = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    file += b"\x00\x00\x00\x00IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    with pytest.raises(Unreadable, match="10000 x 10000 pixels, more than max_pixels=50000000"):
        open_picture(file, 50_000_000)


def test_other_formats_are_not_tried() -> None:
    with pytest.raises(Unreadable, match="not a picture"):
        open_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")


# What cannot be read


def damaged(root: Path) -> TableSource:
    """Twelve captioned pictures, three of them broken in different ways; no held-out rows."""
    folder = captioned(root, 12)
    (folder / "3.png").write_bytes(b"nonsense")
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:60])
    (folder / "9.png").unlink()
    return TableSource(picture=Folder(str(folder), held_out=0.0), size=16)


def test_unreadable_rows_are_replaced_logged_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = damaged(tmp_path)
    with caplog.at_level(logging.WARNING):
        shown = [number(source.record("picture", "train", i, rng()).image) for i in range(12)]
        again = [number(source.record("picture", "train", i, rng()).image) for i in range(12)]
    assert shown == again == [0, 1, 2, 5, 5, 5, 6, 7, 8, 10, 10, 11]
    assert source.count_skipped() == {"picture/train": 3}
    assert len(caplog.records) == 3
    assert "row 3 of train skipped (1 so far): not a picture" in caplog.text


def test_what_loader_processes_skip_is_counted(tmp_path: Path) -> None:
    source = damaged(tmp_path)
    mixture = Mixture(source, [SuperResolution(degradation="bicubic")], [1.0])
    loader = DataLoader(mixture, sampler=range(24), batch_size=None, num_workers=2)
    assert len(list(loader)) == 24
    assert source.count_skipped() == {"picture/train": 3}


def test_pairs_of_different_sizes_and_blank_instructions_are_unreadable(tmp_path: Path) -> None:
    folder = pairs(tmp_path, 4)
    picture(501, 32, 32).save(folder / "1_after.png")
    lines = (folder / "metadata.jsonl").read_text().replace("change 2", " ")
    (folder / "metadata.jsonl").write_text(lines)
    source = TableSource(edit=Folder(str(folder), held_out=0.0), size=16)
    assert [number(source.record("edit", "train", i, rng()).image) for i in range(4)] == [0, 3, 3, 3]
    assert source.count_skipped() == {"edit/train": 2}


def test_nothing_readable_ends_in_one_line(tmp_path: Path) -> None:
    folder = captioned(tmp_path, 3)
    for i in range(3):
        (folder / f"{i}.png").write_bytes(b"")
    source = TableSource(picture=Folder(str(folder), held_out=0.0))
    mixture = Mixture(source, [SuperResolution()], [1.0])
    for workers in (0, 1):
        loader = DataLoader(mixture, sampler=range(3), batch_size=None, num_workers=workers)
        with pytest.raises(Unavailable, match=r"^data\.picture=.*no readable row among 3 in 'train'$") as error:
            next(iter(loader))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", "a/../../b.png", "file:///etc/passwd", "..\\x.png"])
def test_paths_cannot_leave_the_folder(tmp_path: Path, path: str) -> None:
    folder = captioned(tmp_path / "set", 3)
    with (folder / "metadata.jsonl").open("a") as f:
        f.write(json.dumps({"file_name": path, "text": "x"}) + "\n")
    with pytest.raises(ValueError, match=r"line 4: file_name=.* leaves the folder"):
        Folder(str(folder))


def test_links_cannot_leave_the_folder(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 3)
    picture(77).save(tmp_path / "secret.png")
    (folder / "1.png").unlink()
    (folder / "1.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(Unreadable, match="leaves the folder"):
        Folder(str(folder), held_out=0.0).row("train", 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no metadata.jsonl there"),
        ("", "needs 'caption' records, of which the data has none"),
        ("{}\n", "line 1: expected an object with the key `file_name`"),
        ('{"file_name": "0.png"\n', "line 1: not JSON"),
        ('{"file_name": "0.png"}\n' * 3, "pictures: 1, expected at least 3: for training, validation, test"),
        ("".join(f'{{"file_name": "{i}.png", "label": 3}}\n' for i in range(3)), "no column caption"),
    ],
)
def test_a_folder_without_what_is_needed(tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        Mixture(TableSource(caption=str(tmp_path)), [TextToImage()], [1.0])
    assert "\n" not in str(error.value)


def test_three_lines_of_yaml_are_a_data_set(tmp_path: Path) -> None:
    """The example of docs/data.md, beside the shipped configurations."""
    from hydra import compose, initialize_config_dir

    configs = shutil.copytree(ROOT / "experiments" / "configs", tmp_path / "configs")
    lines = (ROOT / "docs" / "data.md").read_text().split("```yaml\n# experiments/configs/data/mine.yaml\n")[1]
    (configs / "data" / "mine.yaml").write_text(lines.split("```")[0])
    with initialize_config_dir(str(configs), version_base=None):
        data = compose("config", ["data=mine"]).data
    assert data.edit == "/pictures/edits"
    assert data._target_ == "mtdiff.data.tables.source.TableSource"
    assert data.size == 64


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(ValueError, match=r"data\.edit: /nowhere/at/all: no such folder"):
        TableSource(edit="/nowhere/at/all")


# The hub, as its client sees it


def python(script: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT, check=False)


class HubServer(BaseHTTPRequestHandler):
    """Answers as the hub does for repositories that are missing, gated, or lack a revision."""

    def do_GET(self) -> None:
        code, error = next(
            answer
            for name, answer in {
                "missing": (401, "RepoNotFound"),
                "gated": (403, "GatedRepo"),
                "": (404, "RevisionNotFound"),
            }.items()
            if name in self.path
        )
        self.send_response(code)
        self.send_header("X-Error-Code", error)
        self.send_header("X-Error-Message", error)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        return


def test_repositories_that_cannot_be_read(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), HubServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    script = """
from mtdiff.data.tables.hub import Hub
for repository, revision in (("some/missing", None), ("some/gated", None), ("some/set", "v9")):
    try:
        Hub(repository, revision)
    except ValueError as error:
        print("REFUSED", error)
"""
    here = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
    env = {**os.environ, **here, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, cwd=ROOT, check=False
    )
    server.shutdown()
    said = [line for line in done.stdout.splitlines() if line.startswith("REFUSED")]
    assert len(said) == 3, done.stdout + done.stderr
    assert "some/missing: cannot be read" in said[0]
    assert "doesn't exist on the Hub or cannot be accessed" in said[0]
    assert "gated" in said[1]
    assert "some/set@v9" in said[2]
    assert "v9" in said[2].split("cannot be read")[1]


def test_no_network_is_one_line(tmp_path: Path) -> None:
    script = "from mtdiff.data.tables.hub import Hub\n"
    script += "try:\n    Hub('some/set')\nexcept ValueError as error:\n    print(error)"
    env = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "some/set: cannot be read" in done.stdout
    assert "is there a network" in done.stdout


# The checker and a run


def test_the_checker_counts(tmp_path: Path) -> None:
    source = damaged(tmp_path / "set")
    lines = [{"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "text": ""}]
    images = {"0.png": picture(0, 100, 40), "1.png": picture(1, 8, 80)}
    captions = Folder(str(write_folder(tmp_path / "captions", lines, images)), held_out=0.0)
    both = TableSource(
        caption=captions, picture=source.tables["picture"], size=16, counts={"caption": {"train": 3}, "picture": {}}
    )
    report = check_source(both)
    part = report["picture"]["train"]
    assert (part["rows"], part["read"], part["unreadable"]) == (12, 12, 3)
    assert [f["row"] for f in part["first_unreadable"]] == [3, 4, 9]
    caption = report["caption"]["train"]
    assert (caption["empty_captions"], caption["small"], caption["published"]) == (1, 1, 3)
    assert caption["width"] == {"min": 8, "median": 54, "max": 100}
    found = problems(report)
    assert len(found) == 3
    assert "picture/train: 3 of 12 rows unreadable" in " ".join(found)
    assert "caption/train: 2 rows, published with 3" in found


def test_check_data_says_what_to_mend(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 40)
    (folder / "7.png").write_bytes(b"nonsense")
    options = ["data=folder", f"data.picture={folder}", f"out={tmp_path}/check.json"]
    done = run_script("experiments/check_data.py", *options)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 of 36 rows unreadable" in done.stdout or "unreadable (first: row" in done.stdout
    report = json.loads((tmp_path / "check.json").read_text())
    assert sum(part["rows"] for part in report["data"]["picture"].values()) == 40
    assert len(report["problems"]) == 1


def test_a_run_on_folders_for_all_four_tasks(tmp_path: Path) -> None:
    sets = [f"data.{need}={path}" for need, path in all_four(tmp_path / "sets", 24).items()]
    for i in range(1, 24, 2):  # none of those that are held out
        (tmp_path / "sets" / "picture" / f"{i}.png").write_bytes(b"nonsense")
    options = ["training.steps=2", "training.batch_size=16", "training.workers=1", "evaluation.per_task=2"]
    options += ["evaluation.baselines=false", "evaluation.validation_per_task=1", "sampling.steps=1"]
    options += ["training.sample_every=null", "trainer.accelerator=cpu", "progress=false", f"run_dir={tmp_path}/run"]
    done = run_script("experiments/run.py", "data=folder", *sets, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped (1 so far): not a picture" in done.stderr + done.stdout
    assert "unreadable rows of picture/train were replaced" in done.stdout
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["status"], result["data"], result["steps"]) == ("complete", "folder", 2)
    assert {r["task"] for r in result["rows"]} == {"text_to_image", "edit", "super_resolution", "inpaint"}
