"""Shards: true WebDataset files, addressed by number wherever they lie; broken ones found before a run."""

import json
import resource
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
import webdataset
from forked import run_script
from fsspec.implementations.memory import MemoryFileSystem
from little_sets import captioned, encoded, number, pairs, picture
from torch.utils.data import DataLoader

from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture, RunningBatchSampler
from mtdiff.data.tables import shards
from mtdiff.data.tables.convert import Samples, write_index, write_shards
from mtdiff.data.tables.folder import Folder
from mtdiff.data.tables.shard_index import FORMAT, describe_shard
from mtdiff.data.tables.shards import Shards
from mtdiff.data.tables.source import WINDOW, TableSource
from mtdiff.data.tables.table import Row, Unavailable
from mtdiff.files.pictures import open_picture, to_rgb
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import SPLITS, Batch, Need, Split

ROOT = Path(__file__).parents[2]
SMALL = 1 / 256  # MiB: a few samples a shard


@pytest.fixture
def memory() -> Iterator[str]:
    """A URL in fsspec's memory, empty again afterwards."""
    yield "memory://sets"
    MemoryFileSystem().rm("/", recursive=True)


def write(
    source: TableSource | EmojiSource, need: Need, url: str, splits: tuple[Split, ...] = SPLITS
) -> dict[str, int]:
    return write_shards(url, {s: Samples(source, need, s) for s in splits}, SMALL)


def edits(tmp_path: Path, url: str, count: int = 40) -> TableSource:
    """Converted edits; the source they came from is returned."""
    source = TableSource(edit=Folder(str(pairs(tmp_path / "edits", count)), held_out=0.1), size=16)
    write(source, "edit", url)
    return source


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


# The format


def test_converted_shards_hold_what_the_folder_holds(tmp_path: Path, memory: str) -> None:
    before = edits(tmp_path, memory)
    after = TableSource(edit=memory, size=16)
    for split in SPLITS:
        assert after.size("edit", split) == before.size("edit", split)
        one, two = (
            {(r := s.record("edit", split, i, rng())).instruction: r for i in range(s.size("edit", split))}
            for s in (before, after)
        )
        assert set(one) == set(two)
        for name, record in one.items():
            again = two[name]
            assert (record.caption, record.edited_caption) == (again.caption, again.edited_caption)
            assert torch.equal(record.image, again.image)
            assert torch.equal(record.edited, again.edited)  # type: ignore[arg-type]


def test_webdataset_reads_the_same_samples(tmp_path: Path) -> None:
    edits(tmp_path, str(tmp_path / "out"))
    ours = Shards(str(tmp_path / "out"))
    files = sorted(str(p) for p in (tmp_path / "out" / "train").glob("*.tar"))
    assert len(files) > 2
    theirs = list(webdataset.WebDataset(files, shardshuffle=False))
    assert len(theirs) == ours.size("train")
    for i, sample in enumerate(theirs):
        row = ours.row("train", i)
        assert row.columns["image"] == sample["image.png"]
        assert row.columns["edited_image"] == sample["edited_image.png"]
        assert row.columns["instruction"] == json.loads(sample["json"])["instruction"]


def test_shards_of_others_are_indexed(tmp_path: Path) -> None:
    """JPEG and text files, long names, as other tools write them."""
    with webdataset.ShardWriter(str(tmp_path / "train-%03d.tar"), maxcount=4, verbose=0) as writer:
        for i in range(10):
            key = f"{'long' * 40}/{i:05d}"
            writer.write({"__key__": key, "jpg": encoded(picture(i), "JPEG"), "txt": f"picture {i}"})
    with pytest.raises(ValueError, match=r"no index\.json there; make it with: python experiments/convert_data\.py"):
        Shards(str(tmp_path))
    assert write_index(str(tmp_path)) == {"train": 10, "validation": 0, "test": 0}
    table = Shards(str(tmp_path), held_out=0.0)
    assert list(table.runs("train")) == [4, 4, 2]
    elsewhere = str(tmp_path / "elsewhere")
    write_index(str(tmp_path), elsewhere)
    assert Shards(str(tmp_path), held_out=0.0, index=elsewhere).row("train", 9) == table.row("train", 9)
    for i in range(10):
        row = table.row("train", i).columns
        assert row["caption"] == f"picture {i}"
        assert to_rgb(open_picture(row["image"])).size == (48, 32)
    source = TableSource(caption=str(tmp_path), size=16)
    assert sum(source.size("caption", s) for s in SPLITS) == 10
    assert min(source.size("caption", s) for s in SPLITS) >= 1


def test_drawn_records_become_shards(memory: str) -> None:
    source = EmojiSource(size=32)

    class Few(Samples):
        def __len__(self) -> int:
            return 6

    counts = write_shards(memory, {"train": Few(source, "edit", "train")})
    assert counts == {"train": 6, "unreadable": 0}
    table = TableSource(edit=Shards(memory, held_out=0.0), size=32)
    record = table.record("edit", "train", 0, rng())
    assert record.edited is not None
    assert record.image.shape == (3, 32, 32)
    assert not torch.equal(record.image, record.edited)
    assert record.instruction


def test_unreadable_pictures_are_left_out_and_counted(tmp_path: Path, memory: str) -> None:
    folder = captioned(tmp_path, 8)
    (folder / "2.png").unlink()
    (folder / "5.png").write_bytes(b"nonsense")
    source = TableSource(caption=Folder(str(folder), held_out=0.0), size=16)
    assert write(source, "caption", memory, ("train",)) == {"train": 6, "unreadable": 2}
    with pytest.raises(ValueError, match="holds shards already"):
        write(source, "caption", memory, ("train",))


# Order, workers, ranks, resumption


def numbers(batches: Any) -> list[str]:
    return [prompt for batch in batches for prompt in batch.prompt]


def loaded(
    mixture: Mixture, batches: int, start: int = 0, rank: int = 0, world: int = 1, workers: int = 0
) -> list[str]:
    """Prompts of one rank's batches of 2, from example `start` on."""
    sampler = RunningBatchSampler(2, start, rank, world)
    loader = iter(DataLoader(mixture, batch_sampler=sampler, num_workers=workers, collate_fn=Batch.collate))
    return numbers(next(loader) for _ in range(batches))


def test_every_example_once_per_epoch_with_workers_and_ranks(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    edits(tmp_path, url)
    mixture = Mixture(TableSource(edit=url, size=16), [Edit()], [1.0])
    assert mixture.streams[0].sizes["edit"] == 32
    alone = loaded(mixture, 16)
    assert len(set(alone)) == 32
    ranks = [loaded(mixture, 8, rank=r, world=2, workers=2) for r in range(2)]
    together = [p for k in range(8) for r in range(2) for p in ranks[r][2 * k : 2 * k + 2]]
    assert together == alone


def test_a_run_goes_on_in_the_middle_of_a_shard(tmp_path: Path) -> None:
    url = str(tmp_path / "out")
    edits(tmp_path, url)
    whole = loaded(Mixture(TableSource(edit=url, size=16), [Edit()], [1.0]), 24)
    rest = loaded(Mixture(TableSource(edit=url, size=16), [Edit()], [1.0]), 15, start=18, workers=2)
    assert whole[18:] == rest
    assert sorted(whole[:32]) != whole[:32]
    assert whole[32:] != whole[:16]


def test_an_epoch_keeps_to_a_few_shards_at_a_time() -> None:
    """Order alone, of a table of 40 shards with 5 rows each."""

    class Many(Folder):
        def __init__(self) -> None:
            self.name, self.chosen = "many", {}

        def read_row(self, split: Split, index: int) -> Row:
            return Row(str(index), {"image": b""})

        def size(self, split: Split) -> int:
            return 200

        def names(self, split: Split) -> list[str]:
            return ["image"]

        def runs(self, split: Split) -> list[int]:
            return [5] * 40

    source = TableSource(picture=Many(), size=16)
    order = source.order("picture", "train", rng())
    assert sorted(order) == list(range(200))
    windows = [set(order[k : k + 5 * WINDOW] // 5) for k in range(0, 200, 5 * WINDOW)]
    assert all(len(w) == WINDOW for w in windows)
    assert not np.array_equal(order, source.order("picture", "train", np.random.default_rng(1)))


# Where they lie


def test_the_same_examples_from_disk_and_from_memory(tmp_path: Path, memory: str) -> None:
    edits(tmp_path, str(tmp_path / "out"))
    fsspec.filesystem("memory").put(str(tmp_path / "out") + "/", memory, recursive=True)
    made = [Mixture(TableSource(edit=u, size=16), [Edit()], [1.0]) for u in (f"file://{tmp_path}/out", memory)]
    for i in range(5):
        one, two = (m[i] for m in made)
        assert (one.prompt, one.key) == (two.prompt, two.key)
        assert torch.equal(one.target, two.target)


def test_copies_are_made_once(tmp_path: Path, memory: str) -> None:
    edits(tmp_path, memory)
    copy = tmp_path / "copy"
    table = Shards(memory, copy_to=str(copy))
    first = table.row("train", 0)
    assert 1 <= len(list(copy.rglob("*.tar"))) <= 3  # one of each split
    assert not list(copy.rglob("*.part"))
    MemoryFileSystem().rm("/sets", recursive=True)
    assert table.row("train", 0) == first


class Unsteady(MemoryFileSystem):
    """Memory behind a connection that fails `failures` times at tar files."""

    protocol = "unsteady"
    failures = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.replace("unsteady://", "memory://"))

    def cat_file(self, path: str, start: Any = None, end: Any = None, **how: Any) -> bytes:
        if path.endswith(".tar") and Unsteady.failures > 0:
            Unsteady.failures -= 1
            raise OSError("connection reset")
        return super().cat_file(path, start, end, **how)


def test_a_connection_that_fails_is_tried_again(tmp_path: Path, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    monkeypatch.setattr(shards, "PAUSE", 0.0)
    edits(tmp_path, memory)
    table = Shards(memory.replace("memory", "unsteady"))
    monkeypatch.setattr(Unsteady, "failures", 2)
    assert table.row("train", 0) == Shards(memory).row("train", 0)
    monkeypatch.setattr(Unsteady, "failures", 3)
    with pytest.raises(Unavailable, match=r"cannot be read \(connection reset\)"):
        table.row("train", 0)


# Broken ones


def test_broken_shards_are_found_before_a_run(tmp_path: Path) -> None:
    edits(tmp_path, str(tmp_path / "out"))
    file = tmp_path / "out" / "train" / "shard-000000.tar"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"data\.edit: .*shard-000000\.tar: broken shard: \d+ bytes, its index says"):
        TableSource(edit=str(tmp_path / "out"))
    for cut in (len(whole) // 2, 512, describe_shard("whole", BytesIO(whole))["starts"][1]):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"shard-000000\.tar: broken shard"):
            write_index(str(tmp_path / "out"))
    file.unlink()
    with pytest.raises(ValueError, match=r"shard-000000\.tar: broken shard: missing"):
        TableSource(edit=str(tmp_path / "out"))


def test_damage_inside_a_shard(tmp_path: Path) -> None:
    """A header that is no header ends the run; a picture that is none is skipped and counted."""
    edits(tmp_path, str(tmp_path / "out"))
    file = tmp_path / "out" / "train" / "shard-000000.tar"
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"IDAT", b"XXXX"))
    source = TableSource(edit=str(tmp_path / "out"), size=16)
    source.record("edit", "train", 0, rng())
    assert source.count_skipped()["edit/train"] >= 1
    file.write_bytes(b"\x01" * 300 + whole[300:])
    with pytest.raises(ValueError, match=r"shard-000000\.tar: broken shard at sample 0"):
        TableSource(edit=str(tmp_path / "out"))
    second = whole.index(b"000000000.", 512)
    file.write_bytes(whole[: second + 100] + b"\x01" * 100 + whole[second + 200 :])
    with pytest.raises(ValueError, match=r"broken shard at sample 0 \(a damaged header\)"):
        TableSource(edit=str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "expected the key `format`"),
        ({"splits": {}}, "names no shards"),
        ({"splits": {"train": [{"file": "../x.tar", "bytes": 9, "starts": [0, 9]}]}}, "`splits.train`"),
        ({"splits": {"train": [{"file": "/x.tar", "bytes": 9, "starts": [0, 9]}]}}, "`splits.train`"),
        ({"splits": {"train": [{"file": "x.tar", "bytes": 9, "starts": [5, 2]}]}}, "`splits.train`"),
        ({"splits": {"train": [{"file": "x.tar", "bytes": 9, "starts": [0, 99]}]}}, "`splits.train`"),
    ],
)
def test_an_index_is_checked(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "index.json").write_text(json.dumps({"format": FORMAT, "splits": {}} | change))
    with pytest.raises(ValueError, match=said):
        Shards(str(tmp_path))


def test_an_unknown_kind_of_url_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"data\.edit: nothing://x/index\.json: cannot be read"):
        TableSource(edit="nothing://x")


def test_a_full_disk_while_converting(tmp_path: Path) -> None:
    """No file may grow beyond 2,000 bytes: a true error of the system. What is left is no data set."""
    source = TableSource(edit=Folder(str(pairs(tmp_path / "edits", 20)), held_out=0.0), size=16)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(ValueError, match=r"out=.*: cannot be written \(File too large\)"):
            write(source, "edit", str(tmp_path / "out"), ("train",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (tmp_path / "out" / "index.json").exists()


def test_convert_data_from_the_command_line(tmp_path: Path) -> None:
    folder = captioned(tmp_path / "set", 30)
    options = ["data=folder", f"data.caption={folder}", f"out={tmp_path}/out", "shard_mib=0.005"]
    done = run_script("experiments/convert_data.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "train 26, validation 2, test 2, unreadable 0" in done.stdout
    mixture = Mixture(TableSource(caption=f"{tmp_path}/out/caption", size=16), [TextToImage()], [1.0])
    shown = {(e := mixture[i]).prompt: number((e.target + 1) * 127.5) for i in range(26)}
    assert len(shown) == 26
    assert all(prompt == f"picture {i}" for prompt, i in shown.items())
