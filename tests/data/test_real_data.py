"""Data sets of every kind, small but in their true formats, through whole runs: all four tasks train and are judged."""

import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from little_sets import all_four, picture
from safetensors.torch import load_file
from whole_runs import CONFIGS, ROOT, whole_run

from mtdiff.data.tables.convert import Samples, write_shards
from mtdiff.data.tables.shards import Shards
from mtdiff.data.tables.source import TableSource
from mtdiff.errors import Interrupted
from mtdiff.types import SPLITS, Need

TASKS = {"text_to_image", "edit", "super_resolution", "inpaint"}
NEEDS: list[Need] = ["caption", "edit", "picture", "removal"]
ROWS = 24
TEXT, PICTURE = datasets.Value("string"), datasets.Image()


def options(found: Mapping[str, str]) -> list[str]:
    return [f"data.{need}={place}" for need, place in found.items()]


def folders(root: Path) -> list[str]:
    return ["data=folder", *options(all_four(root, ROWS))]


def captioned(rows: range) -> datasets.Dataset:
    """COCO's columns: a picture with five captions."""
    columns = {"image": [picture(i) for i in rows], "captions": [[f"{i} {k}" for k in range(5)] for i in rows]}
    return datasets.Dataset.from_dict(columns, datasets.Features(image=PICTURE, captions=datasets.List(TEXT)))


def edited(rows: range) -> datasets.Dataset:
    """InstructPix2Pix's columns."""
    texts = {name: [f"{name} {i}" for i in rows] for name in ("original_prompt", "edit_prompt", "edited_prompt")}
    columns = {"original_image": [picture(i) for i in rows], "edited_image": [picture(i + 500) for i in rows], **texts}
    kinds = {name: PICTURE if name.endswith("image") else TEXT for name in columns}
    return datasets.Dataset.from_dict(columns, datasets.Features(kinds))


def saved(root: Path) -> list[str]:
    """Written by `datasets`' save_to_disk."""
    made = {"caption": captioned, "edit": edited, "picture": captioned, "removal": edited}
    for need, make in made.items():
        make(range(ROWS)).save_to_disk(root / need)
    return ["data=folder", *options({need: str(root / need) for need in made})]


def published(root: Path) -> list[str]:
    """Repositories of parquet files as data=published names them, and folders for its two downloads."""
    for name, split, made in (
        ("coco", "train", captioned(range(ROWS))),
        ("coco", "validation", captioned(range(100, 106))),
        ("pix2pix", "train", edited(range(ROWS))),
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
        made.to_parquet(root / name / f"{split}-00000-of-00001.parquet")
    here = {need: place for need, place in all_four(root / "folders", ROWS).items() if need in ("picture", "removal")}
    repositories = [
        f"data.{need}.repository={root / name}" for need, name in (("caption", "coco"), ("edit", "pix2pix"))
    ]
    parts = 'data.edit.splits={train: "train[:16]", validation: "train[16:]", test: "train[20:]"}'
    recipe = ["task.super_resolution.scale=2", "task.inpaint.removal=1"]
    return ["data=published", *repositories, parts, *options(here), *recipe]


def shards(root: Path, url: str) -> list[str]:
    source = TableSource(**all_four(root / "folders", ROWS), size=64)  # type: ignore[arg-type]
    for need in NEEDS:
        write_shards(f"{url}/{need}", {s: Samples(source, need, s) for s in SPLITS}, 1 / 256)
    return ["data=shards", *options({need: f"{url}/{need}" for need in NEEDS})]


KINDS: dict[str, Any] = {
    "folders": folders,
    "saved": saved,
    "published": published,
    "shards": lambda root: shards(root, str(root / "shards")),
    "file": lambda root: shards(root, f"file://{root}/shards"),
    "memory": lambda root: shards(root, "memory://real"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield tmp_path / "sets"
    if MemoryFileSystem().exists("/real"):
        MemoryFileSystem().rm("/real", recursive=True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_trains_and_is_judged_on_all_tasks(kind: str, place: Path, tmp_path: Path) -> None:
    result = whole_run(tmp_path / "run", *KINDS[kind](place))
    assert (result["status"], result["steps"], result["samples_seen"]) == ("complete", 1, 4)
    for task in TASKS:
        values = [row["value"] for row in result["rows"] if row["task"] == task]
        assert any(value is not None for value in values), task
    assert {path.stem for path in (tmp_path / "run" / "samples").glob("*.png")} == TASKS


def test_a_user_s_own_three_lines_run(place: Path, tmp_path: Path) -> None:
    """The example of docs/data.md with another path and without the repository: data=mine."""
    configs = shutil.copytree(CONFIGS, tmp_path / "configs")
    example = (ROOT / "docs" / "data.md").read_text().split("```yaml\n# experiments/configs/data/mine.yaml\n")[1]
    lines = [line for line in example.split("```")[0].splitlines() if "repository" not in line]
    edits = all_four(place, ROWS)["edit"]
    (configs / "data" / "mine.yaml").write_text("\n".join(lines).replace("/pictures/edits", edits))
    result = whole_run(tmp_path / "run", "data=mine", "tasks=[edit]", configs=configs)
    assert (result["status"], result["data"], result["tasks"]) == ("complete", "mine", ["edit"])


def test_a_run_on_streamed_shards_goes_on_in_the_middle_of_one(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by a signal while the second of four steps is read, it ends with the weights of one that was not."""
    given = [*shards(place, "memory://real"), "training.steps=4", "training.save_every=1", "training.batch_size=3"]
    whole_run(tmp_path / "whole", *given)
    row, read = Shards.row, []

    def stopping(self: Shards, split: Any, index: int) -> Any:
        read.append(split)
        if split == "train" and read.count("train") == 13:  # first rows of four sets are looked at twice before
            os.kill(os.getpid(), signal.SIGTERM)
        return row(self, split, index)

    monkeypatch.setattr(Shards, "row", stopping)
    with pytest.raises(Interrupted):
        whole_run(tmp_path / "stopped", *given)
    monkeypatch.undo()
    steps = [int(path.name.split("-")[1]) for path in (tmp_path / "stopped" / "checkpoints").glob("step-*.ckpt")]
    assert 1 <= max(steps) < 4
    whole_run(tmp_path / "stopped", *given)
    one, other = (load_file(tmp_path / name / "adapter.safetensors") for name in ("whole", "stopped"))
    assert one.keys() == other.keys()
    assert all(one[k].equal(other[k]) for k in one)
