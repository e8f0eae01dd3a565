"""Layouts and texts of other people's folders and shards: no test picture is trained on, what is left out is said."""

import json
import logging
import os
import tarfile
import unicodedata
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas
import pytest
from little_sets import captioned, encoded, number, pairs, picture, write_folder

from mtdiff.data.tables.checker import check_source, problems
from mtdiff.data.tables.convert import Samples, write_index, write_shards
from mtdiff.data.tables.folder import Folder
from mtdiff.data.tables.shards import Shards
from mtdiff.data.tables.source import TableSource
from mtdiff.data.tables.table import SPLIT_NAMES, find_split
from mtdiff.types import SPLITS, Split

TEST = 100  # pictures of a test folder show colours from here on


def shown(source: TableSource, split: Split) -> list[int]:
    """Which pictures a split shows."""
    rng = np.random.default_rng(0)
    return [number(source.record("picture", split, i, rng).image) for i in range(source.size("picture", split))]


def check_apart(source: TableSource, train: int, test: int) -> None:
    """Training and validation show no picture of the test folder."""
    counts = {split: shown(source, split) for split in SPLITS}
    assert max(counts["train"] + counts["validation"]) < TEST <= min(counts["test"])
    assert (len(counts["train"] + counts["validation"]), len(counts["test"])) == (train, test)


def bare(folder: Path, count: int, first: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(first, first + count):
        picture(i).save(folder / f"{i}.png")


@pytest.mark.parametrize("word", [w for s in ("test",) for w in SPLIT_NAMES[s]])
@pytest.mark.parametrize("spelling", [str, str.title, str.upper, "my-{}".format, "{}_images".format, "{} 2017".format])
def test_words_of_splits_keep_test_pictures_apart(word: str, spelling: object, tmp_path: Path) -> None:
    bare(tmp_path / "a" / "Training", 6)
    bare(tmp_path / "a" / spelling(word), 4, TEST)  # type: ignore[operator]
    check_apart(TableSource(picture=str(tmp_path), size=16), 6, 4)


@pytest.mark.parametrize(
    ("names", "split"),
    [
        (["train", "Test"], "test"),
        (["testB"], "test"),
        (["val2017"], "validation"),
        (["trainset"], "train"),
        (["contest"], None),
        (["latest"], None),
        (["devil"], None),
        (["Testament"], None),
    ],
)
def test_which_split_names_say(names: list[str], split: Split | None) -> None:
    assert find_split(names) == split


def test_one_metadata_above_the_splits(tmp_path: Path) -> None:
    lines, images = [], {}
    for split, first in (("train", 0), ("test", TEST)):
        for i in range(first, first + 8):
            lines.append({"file_name": f"{split}/{i}.png", "text": f"{split} {i}"})
            images[f"{split}/{i}.png"] = picture(i)
    check_apart(TableSource(picture=str(write_folder(tmp_path, lines, images)), size=16), 8, 8)


def test_a_column_or_the_names_of_files_say_the_split(tmp_path: Path) -> None:
    lines = [{"file_name": f"{i}.png", "split": "Test" if i >= TEST else "train"} for i in (*range(5), TEST, TEST + 1)]
    images = {str(line["file_name"]): picture(int(str(line["file_name"])[:-4])) for line in lines}
    check_apart(TableSource(picture=str(write_folder(tmp_path / "column", lines, images)), size=16), 5, 2)
    (tmp_path / "names").mkdir()
    for i in (*range(5), TEST, TEST + 1):
        picture(i).save(tmp_path / "names" / f"{'test' if i >= TEST else 'train'}_{i}.png")
    check_apart(TableSource(picture=str(tmp_path / "names"), size=16), 5, 2)


def test_a_link_into_a_test_folder_is_a_test_picture(tmp_path: Path) -> None:
    bare(tmp_path / "train", 6)
    bare(tmp_path / "test", 2, TEST)
    (tmp_path / "train" / "more.png").symlink_to(tmp_path / "test" / f"{TEST}.png")
    check_apart(TableSource(picture=str(tmp_path), size=16), 6, 3)


def test_tars_that_say_their_split(tmp_path: Path) -> None:
    for name in ("cc-train-000", "cc-Validation-000", "evaluation/000"):
        write_tar(tmp_path / f"{name}.tar", [("0.jpg", encoded(picture(0), "JPEG"))])
    assert write_index(str(tmp_path)) == {"train": 1, "validation": 1, "test": 1}


def test_what_is_left_out_is_counted_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = captioned(tmp_path / "set", 6)
    for hidden in ("._0.png", "__MACOSX/0.png", ".thumbnails/0.png"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes(b"\0\5\x16\7")
    for other in ("a.heic", "b.heic", "notes", "images.tar"):
        (folder / other).write_bytes(b"")
    picture(0).save(folder / "unlisted.png")
    table = Folder(str(folder))
    assert sum(table.size(split) for split in SPLITS) == 6
    (line,) = caplog.messages
    for said in ("1 pictures that no metadata names", "2 .heic, 1 without ending", "(images.tar)"):
        assert said in line
    assert TableSource(caption=str(folder), size=16).size("caption", "train") == 4  # not taken for shards


def test_pictures_beside_a_training_folder_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bare(tmp_path / "set" / "train", 4)
    bare(tmp_path / "set" / "other", 2, TEST)
    with caplog.at_level(logging.WARNING):
        assert max(shown(TableSource(picture=str(tmp_path / "set"), size=16), "train")) < TEST
    assert "left out: 2 rows in no folder of train, validation or test" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings_of_metadata(encoding: str, tmp_path: Path) -> None:
    folder = captioned(tmp_path, 4)
    (folder / "0.png").rename(folder / "U\u0308bung.png")  # as a Mac spells it
    lines = [{"file_name": "Übung.png" if i == 0 else f"{i}.png", "text": f"Straße\u2028{i}"} for i in range(4)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_bytes(text.encode(encoding))
    source = TableSource(caption=Folder(str(folder), held_out=0.0), size=16)
    records = [source.record("caption", "train", i, np.random.default_rng(0)) for i in range(4)]
    assert [(number(r.image), r.caption) for r in records] == [(i, f"Straße\u2028{i}") for i in range(4)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_of_texts_in_shards(encoding: str, tmp_path: Path) -> None:
    files = [(f"{i}.{kind}", data) for i in range(3) for kind, data in sample(i, f"Straße {i}".encode(encoding))]
    write_tar(tmp_path / "a.tar", files)
    write_index(str(tmp_path))
    table = Shards(str(tmp_path), held_out=0.0)
    assert [table.row("train", i).columns["caption"] for i in range(3)] == [f"Straße {i}" for i in range(3)]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_tables_beside_pictures(kind: str, tmp_path: Path) -> None:
    folder = captioned(tmp_path, 4)
    (folder / "metadata.jsonl").unlink()
    frame = pandas.DataFrame({"file_name": [f"{i}.png" for i in range(4)], "text": ["007", "b, c", None, "ü"]})
    getattr(frame, f"to_{kind}")(folder / f"metadata.{kind}", index=False)
    table = Folder(str(folder), held_out=0.0)
    assert [table.row("train", i).columns["text"] for i in range(4)] == ["007", "b, c", None, "ü"]


def test_half_a_character_is_mended_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = captioned(tmp_path / "set", 6)
    lines = [{"file_name": f"{i}.png", "text": "a face \ud83d" if i % 3 == 0 else "\U0001f600"} for i in range(6)]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = TableSource(caption=Folder(str(folder), held_out=0.0), size=16)
    captions = [source.record("caption", "train", i, np.random.default_rng(0)).caption for i in range(6)]
    assert captions == ["a face \ufffd", "\U0001f600", "\U0001f600"] * 2
    assert "mended (2 so far)" in caplog.text
    report = check_source(source)
    assert (report["caption"]["train"]["mended"], problems(report), source.count_skipped()) == (2, [], {})
    counts = write_shards(str(tmp_path / "out"), {"train": Samples(source, "caption", "train")})
    assert counts == {"train": 6, "unreadable": 0}


def test_columns_are_those_of_all_rows(tmp_path: Path) -> None:
    folder = pairs(tmp_path, 4)
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    del lines[0]["caption"], lines[0]["edited_caption"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = TableSource(edit=Folder(str(folder), held_out=0.0), size=16)
    records = [source.record("edit", "train", i, np.random.default_rng(0)) for i in range(4)]
    assert [r.caption for r in records] == ["", "before 1", "before 2", "before 3"]


def write_tar(path: Path, files: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))


def sample(i: int, text: bytes) -> list[tuple[str, bytes]]:
    return [("jpg", encoded(picture(i), "JPEG")), ("txt", text)]


def test_sidecars_and_strays_in_a_shard_are_in_no_sample(tmp_path: Path) -> None:
    files = [("README", b"hello"), ("__MACOSX__/0.txt", b"no")]
    for i in range(4):
        files += [(f"./._{i}.{kind}", b"\0\5\x16\7") for kind in ("jpg", "txt")]
        files += [(f"./{i}.{kind}", data) for kind, data in sample(i, f"picture {i}".encode())]
    write_tar(tmp_path / "a.tar", files)
    assert write_index(str(tmp_path))["train"] == 4
    table = Shards(str(tmp_path), held_out=0.0)
    assert table.names("train") == ["image", "caption"]
    assert [table.row("train", i).columns["caption"] for i in range(4)] == [f"picture {i}" for i in range(4)]


@pytest.mark.parametrize("old", [False, True], ids=["index with columns", "older index"])
def test_a_broken_first_sample_is_one_row(old: bool, tmp_path: Path) -> None:
    files = []
    for i in range(6):
        text = b"{broken" if i == 0 else json.dumps({"caption": f"picture {i}"}).encode()
        files += [(f"{i}.jpg", encoded(picture(i), "JPEG")), (f"{i}.json", text)]
    write_tar(tmp_path / "a.tar", files)
    write_index(str(tmp_path))
    if old:
        index = json.loads((tmp_path / "index.json").read_text())
        del index["splits"]["train"][0]["columns"]
        (tmp_path / "index.json").write_text(json.dumps(index))
    part = check_source(TableSource(caption=Shards(str(tmp_path), held_out=0.0), size=16))["caption"]["train"]
    assert (part["rows"], part["unreadable"]) == (6, 1)


def test_texts_in_place_of_pictures_are_refused(tmp_path: Path) -> None:
    lines = [{"file_name": f"{i}.png", "edited_image": f"{i}.png", "edit_prompt": "change"} for i in range(4)]
    folder = write_folder(tmp_path, lines, {f"{i}.png": picture(i) for i in range(4)})
    with pytest.raises(ValueError, match=r"data\.edit: .*edited_image holds texts .*in edited_image_file_name"):
        TableSource(edit=str(folder))


def test_pairs_named_without_file_name(tmp_path: Path) -> None:
    folder = pairs(tmp_path, 4)
    text = (folder / "metadata.jsonl").read_text()
    text = text.replace('"file_name"', '"input_image_file_name"').replace(
        '"edited_file_name"', '"edited_image_file_name"'
    )
    (folder / "metadata.jsonl").write_text(text)
    assert sum(TableSource(edit=str(folder), size=16).size("edit", s) for s in SPLITS) == 4


def test_a_snapshot_of_the_hub_is_followed_and_other_links_are_refused(tmp_path: Path) -> None:
    bare(tmp_path / "blobs", 4)
    for folder in (tmp_path / "snapshots" / "abc", tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        for i in range(4):
            (folder / f"{i}.png").symlink_to(tmp_path / "blobs" / f"{i}.png")
    source = TableSource(picture=Folder(str(tmp_path / "snapshots" / "abc"), held_out=0.0), size=16)
    assert shown(source, "train") == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="every picture is a link that leaves the folder"):
        TableSource(picture=str(tmp_path / "elsewhere"))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_pictures_are_refused_without_a_class_of_ours(count: int, tmp_path: Path) -> None:
    bare(tmp_path / "set", count)
    with pytest.raises(ValueError, match=f"pictures: {count}, expected at least 3") as error:
        TableSource(picture=str(tmp_path / "set"))
    assert "Source" not in str(error.value)


def test_names_of_files_in_any_encoding(tmp_path: Path) -> None:
    """Bytes that are no UTF-8, letters in two pieces where the metadata has them in one, headers of old tars."""
    (tmp_path / "bytes").mkdir()
    (tmp_path / "pieces").mkdir()
    lines = []
    for i in range(6):
        Path(os.fsdecode(os.fsencode(tmp_path / "bytes") + b"/\xe4%d.png" % i)).write_bytes(encoded(picture(i), "PNG"))
        picture(i).save(tmp_path / "pieces" / unicodedata.normalize("NFD", f"ä{i}.png"))
        lines.append({"file_name": f"ä{i}.png", "text": f"number {i}"})
    (tmp_path / "pieces" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for source in (
        TableSource(picture=str(tmp_path / "bytes"), size=16),
        TableSource(picture=str(tmp_path / "pieces"), size=16),
    ):
        assert sorted(n for split in SPLITS for n in shown(source, split)) == list(range(6))
    for form, encoding in (
        (tarfile.USTAR_FORMAT, "latin-1"),
        (tarfile.GNU_FORMAT, "cp1252"),
        (tarfile.PAX_FORMAT, "utf-8"),
    ):
        folder = tmp_path / f"tar{form}"
        folder.mkdir()
        with tarfile.open(folder / "a.tar", "w", format=form, encoding=encoding) as tar:
            for i in range(6):
                for name, data in ((f"ä{i}.png", encoded(picture(i), "PNG")), (f"ä{i}.txt", f"number {i}".encode())):
                    about = tarfile.TarInfo(name)
                    about.size = len(data)
                    tar.addfile(about, BytesIO(data))
        assert write_index(str(folder))["train"] == 6
        source = TableSource(caption=str(folder), size=16)
        record = source.record("caption", "train", 0, np.random.default_rng(0))
        assert record.caption == f"number {number(record.image)}"
