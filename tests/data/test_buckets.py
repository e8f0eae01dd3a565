"""Aspect buckets: batches of one shape, tasks and records in their shares, and a run through all of it."""

from collections import Counter
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from little_sets import all_four, encoded, noise, number, pairs, picture, saved, write_folder
from PIL import ExifTags, Image, ImageOps
from rich.console import Console
from tiny_families import FAMILIES
from tiny_fits import settings
from whole_runs import composed, whole_run

from mtdiff.data.buckets import FEWEST, BucketedMixture, select_filled, shapes
from mtdiff.data.module import MixtureModule
from mtdiff.data.shares import FINE, fine_counts
from mtdiff.data.tables.checker import check_source, print_report
from mtdiff.data.tables.convert import Samples, write_index, write_shards
from mtdiff.data.tables.folder import Folder
from mtdiff.data.tables.source import TableSource
from mtdiff.errors import ConfigError
from mtdiff.methods.mtu import MTU
from mtdiff.model.conditioning import Dropout
from mtdiff.model.denoiser import Denoiser
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.training.module import MultiTaskModule
from mtdiff.types import Batch, Example

RATIOS = [0.5, 1.0, 2.0]
SIZES = {0: (32, 32), 1: (64, 32), 2: (20, 44)}  # of row i, by i % 3: square, wide, tall
TASKS = {t.name: t for t in (TextToImage(), Edit(), SuperResolution(), Inpaint())}


def mixed(folder: Path, count: int = 60) -> Path:
    """Row i shows colour i in one of three shapes; half of all are square."""
    kinds = [(0, 1, 0, 2)[i % 4] for i in range(count)]
    lines = [{"file_name": f"{i}.png", "text": f"picture {i}"} for i in range(count)]
    return write_folder(folder, lines, {f"{i}.png": picture(i, *SIZES[k]) for i, k in enumerate(kinds)})


def source(root: Path, **given: str) -> TableSource:
    return TableSource(**given, size=32, buckets=RATIOS, bucket_step=16)  # type: ignore[arg-type]


def module(data: TableSource, batch: int = 4, **weights: float) -> MixtureModule:
    held = {name: task for name, task in TASKS.items() if all(data.size(need, "train") for need in task.needs)}
    return MixtureModule(data, held, weights, batch, 0, test_per_task=2, validation_per_task=2)


def taken(made: MixtureModule, count: int) -> list[Example]:
    made.train_dataloader()
    return [made.train[i] for i in range(count)]


# Shapes


@pytest.mark.parametrize("size", [64, 512, 1024])
def test_sides_are_multiples_near_the_area_and_the_ratio(size: int) -> None:
    step, ratios = size // 8, [2.0, 0.5, 0.75, 1.0, 4 / 3]
    found = shapes(size, ratios, step)
    assert [s.ratio for s in found] == sorted(s.ratio for s in found)
    for shape, ratio in zip(found, sorted(ratios), strict=True):
        assert shape.height % step == shape.width % step == 0
        assert abs(shape.height * shape.width / size**2 - 1) < 0.15
        assert abs(np.log(shape.ratio / ratio)) < 0.2


@pytest.mark.parametrize(
    ("ratios", "step", "says"),
    [
        ([], 64, "data.buckets=[]"),
        ([1.0, 5.0], 64, "from 0.25 to 4"),
        ([1.0, float("nan")], 64, "from 0.25 to 4"),
        ([1.0, 1.05], 64, "1.05 comes to 512x512 again"),
        ([1.0], 60, "data.bucket_step=60"),
        ([1.0], 192, "divides data.size=512"),
    ],
)
def test_wrong_buckets_are_refused(ratios: list[float], step: int, says: str) -> None:
    with pytest.raises(ValueError, match=r"^data\.bucket") as error:
        shapes(512, ratios, step)
    assert says in str(error.value)


def test_rare_shapes_are_left_out() -> None:
    all_shapes = shapes(512, RATIOS, 64)
    ratios = np.log(np.array([1.0] * 997 + [0.5] * 3))
    assert FEWEST == 0.005
    assert select_filled(all_shapes, ratios) == [all_shapes[1]]
    assert select_filled(all_shapes, np.log(np.array([0.5, 1, 1]))) == all_shapes[:2]


def test_fine_counts_keep_every_share() -> None:
    weights = {"a": 0.5, "b": 0.4985, "c": 0.0003, "d": 0.0012}
    counts = fine_counts(weights)
    assert len(counts) == 4
    assert abs(sum(counts) - FINE) <= 1
    assert counts[2:] == [1, 1]
    assert counts[0] in (499, 500)
    assert fine_counts({"a": 3.0}) == [1]


# Sizes of pictures


def test_folders_and_shards_tell_sizes_alike(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "folder", 12)
    turned = picture(1, 64, 32)
    exif = turned.getexif()
    exif[ExifTags.Base.Orientation] = 6
    turned.save(folder / "1.png", exif=exif)
    (folder / "2.png").write_bytes(b"no picture")
    plain = TableSource(caption=str(folder), size=32)
    sizes = plain.picture_sizes("caption")
    keys = [plain.tables["caption"].row("train", i).key for i in range(plain.size("caption", "train"))]
    assert {tuple(s) for s in sizes.tolist()} == {(32, 32), (64, 32), (20, 44), (32, 64), (1, 1)}
    for place, size in enumerate(sizes.tolist()):
        row = plain.tables["caption"].row("train", place)
        image = Image.open(folder / f"{row.columns['text'].split()[1]}.png") if size != [1, 1] else None
        assert image is None or list(ImageOps.exif_transpose(image).size) == size, keys[place]

    write_shards(str(tmp_path / "shards"), {"train": Samples(plain, "caption", "train")})
    shards = TableSource(caption=str(tmp_path / "shards"), size=32)
    known = sorted(s for s in sizes.tolist() if s != [1, 1])  # the converter leaves out what is no picture
    assert len(known) == len(sizes) - 1
    held = [shards.tables["caption"].picture_size("train", i, "image") for i in range(shards.size("caption", "train"))]
    assert Counter(held) <= Counter(map(tuple, known))
    (tmp_path / "shards" / "index.json").rename(tmp_path / "old.json")
    write_index(str(tmp_path / "shards"))
    assert (tmp_path / "shards" / "index.json").read_text() == (tmp_path / "old.json").read_text()


def test_a_saved_data_set_tells_sizes(tmp_path: Path) -> None:
    sizes = TableSource(edit=str(saved(tmp_path / "saved", 6)), size=32).picture_sizes("edit")
    assert sizes.tolist() == [[48, 32]] * len(sizes)
    assert len(sizes) > 0


def test_an_index_without_sizes_says_how_to_make_it_again(tmp_path: Path) -> None:
    plain = TableSource(caption=str(mixed(tmp_path / "folder", 8)), size=32)
    write_shards(str(tmp_path / "shards"), {"train": Samples(plain, "caption", "train")})
    index = tmp_path / "shards" / "index.json"
    index.write_text(index.read_text().replace('"sizes"', '"other"'))
    TableSource(caption=str(tmp_path / "shards"), size=32).buckets()
    with pytest.raises(ValueError, match=r"has no sizes of pictures; make it with: python experiments/convert_data.py"):
        source(tmp_path, caption=str(tmp_path / "shards")).buckets()


# Mixing


def test_batches_have_one_shape_and_records_come_once_an_epoch(tmp_path: Path) -> None:
    data = source(tmp_path, caption=str(mixed(tmp_path / "a")))
    made = module(data)
    assert isinstance(made.train, BucketedMixture)
    examples = taken(made, 4 * FINE)
    shown: dict[tuple[int, ...], list[str]] = {}
    for step in range(FINE):
        batch = Batch.collate(examples[4 * step : 4 * step + 4])  # which fails where shapes differ
        shown.setdefault(tuple(batch.target.shape[2:]), []).extend(batch.key)
    assert set(shown) == {(32, 32), (16, 48), (48, 16)}
    rows = data.size("caption", "train")
    for keys in shown.values():
        own = set(keys)
        for epoch in range(len(keys) // len(own)):
            assert set(keys[epoch * len(own) : (epoch + 1) * len(own)]) == own
        assert abs(len(keys) / len(examples) - len(own) / rows) < 0.002  # as often as any other record
    assert len({key for keys in shown.values() for key in keys}) == rows


def test_pictures_go_to_the_nearest_shape(tmp_path: Path) -> None:
    data = source(tmp_path, caption=str(mixed(tmp_path / "a", 24)))
    for example in taken(module(data), 60):
        i = number((example.target + 1) * 127.5)
        height, width = example.target.shape[1:]
        kind = (0, 1, 0, 2)[i % 4]
        assert (width > height, width < height) == (kind == 1, kind == 2)


def test_tasks_keep_their_weights_where_their_shapes_differ(tmp_path: Path) -> None:
    """Edits are all square, captions of every shape; removals tall, pictures wide."""
    places = all_four(tmp_path, 24)
    places["caption"] = str(mixed(tmp_path / "mixed", 24))
    for need, size in (("edit", (32, 32)), ("removal", (16, 40)), ("picture", (40, 16))):
        for path in Path(places[need]).glob("*.png"):
            Image.open(path).resize(size).save(path)
    made = module(source(tmp_path, **places), 4, text_to_image=1, edit=2, super_resolution=1, inpaint=4)
    examples = taken(made, 4 * FINE)
    counts = Counter(e.task for e in examples)
    assert [counts[k] / len(examples) for k in range(4)] == pytest.approx([1 / 8, 2 / 8, 1 / 8, 4 / 8], abs=0.01)
    forms = {k: {e.target.shape[2] - e.target.shape[1] for e in examples if e.task == k} for k in range(4)}
    assert len(forms[0]) == 3
    assert forms[1] == {0}
    assert all(d > 0 for d in forms[2])
    assert {d > 0 for d in forms[3]} == {True, False}  # holes in wide pictures, removals in tall ones


def test_ranks_share_what_one_process_sees(tmp_path: Path) -> None:
    data = source(tmp_path, caption=str(mixed(tmp_path / "a", 24)))
    one, two = module(data, 4), module(data, 2)
    alone = taken(one, 40)
    two._place = lambda: (1, 2)  # type: ignore[method-assign]
    second = iter(two.train_dataloader())
    for step in range(10):
        batch = next(second)
        assert batch.key == [e.key for e in alone[4 * step + 2 : 4 * step + 4]]
        assert torch.equal(batch.target, torch.stack([e.target for e in alone[4 * step + 2 : 4 * step + 4]]))


def test_validation_and_test_keep_squares(tmp_path: Path) -> None:
    made = module(source(tmp_path, caption=str(mixed(tmp_path / "a"))))
    for examples in (made.validation, made.test):
        assert {tuple(examples[i].target.shape) for i in range(len(examples))} == {(3, 32, 32)}


def test_without_buckets_nothing_changes(tmp_path: Path) -> None:
    data = TableSource(caption=str(mixed(tmp_path / "a")), size=32)
    assert data.buckets() == [data]
    assert not isinstance(module(data).train, BucketedMixture)


# Training


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_of_another_shape_trains(family: str) -> None:
    backbone = FAMILIES[family]()
    model = MultiTaskModule(Denoiser(backbone, MTU(experts=2), list(TASKS)), settings())
    pictures = torch.rand(4, 3, 16, 32) * 2 - 1
    mask = torch.zeros(4, 1, 16, 32)
    mask[0] = 1
    texts = ["a", "b", "c", "d"]
    batch = Batch(pictures, pictures * (1 - mask), mask, texts, torch.arange(4), texts, texts, texts, [1, 2, 3, 4])
    errors, _ = model.errors(batch, Dropout())
    assert errors.shape == (4,)
    errors.sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)


def test_a_run_trains_in_buckets_and_judges_squares(tmp_path: Path) -> None:
    edits = pairs(tmp_path / "edits", 24)
    for i in range(0, 24, 2):  # half of the pairs wide
        for name in (f"{i}.png", f"{i}_after.png"):
            (edits / name).write_bytes(encoded(picture(i, 64, 32)))
    given = ["data=folder", f"data.edit={edits}", "tasks=[edit]", "data.buckets=[1.0,2.0]", "data.bucket_step=16"]
    result = whole_run(tmp_path / "run", "training.steps=4", *given)
    assert result["status"] == "complete"
    assert result["config"]["data"]["buckets"] == [1.0, 2.0]
    with pytest.raises(ConfigError, match=r"^training.cache=.*: expected null with data.buckets"):
        composed([*given, f"training.cache={tmp_path / 'cache'}"])


def test_folders_read_no_more_than_headers(tmp_path: Path) -> None:
    """A file that breaks off behind its header has a size; its pixels are missed only when it is drawn."""
    folder = write_folder(tmp_path / "a", [{"file_name": "0.png"}], {"0.png": noise(0, 64)})
    whole = (folder / "0.png").read_bytes()
    (folder / "0.png").write_bytes(whole[:64])
    assert Folder(str(folder), held_out=0.0).picture_size("train", 0, "image") == (64, 64)


def test_the_checker_counts_shapes(tmp_path: Path) -> None:
    report = check_source(source(tmp_path, caption=str(mixed(tmp_path / "a", 24))))
    counts = [Counter(part["buckets"]) for part in report["caption"].values()]
    assert sum(counts, Counter()) == {"32x32": 12, "48x16": 6, "16x48": 6}
    with StringIO() as out:
        Console(file=out, width=250).print(print_report(report))
        assert "48x16" in out.getvalue()
    plain = check_source(TableSource(caption=str(tmp_path / "a"), size=32))
    assert plain["caption"]["train"]["buckets"] is None
