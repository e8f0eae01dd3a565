"""Maps of what is where and over what: exact in the shipped set, checked where they come from elsewhere."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from little_sets import write_folder
from PIL import Image
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_jaccard_index

from baselines.trivial import nearest_mean_colour
from mtdiff.data.emoji.maps import cover
from mtdiff.data.emoji.scenes import draw
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.module import MixtureModule
from mtdiff.data.tables.convert import Samples, write_shards
from mtdiff.data.tables.source import TableSource
from mtdiff.metrics.label_maps import MeanIoU, PixelAccuracy, decode, find_palette
from mtdiff.metrics.measures import Parts
from mtdiff.rng import numpy_rng
from mtdiff.tasks.label_maps import EMOJI, LEVELS, Order, Segment, UnknownColour, read_colour
from mtdiff.types import Batch, Example, Need, Record

ROAD = {"road": "#804080", "sky": "#4682b4"}
CPU = Parts(torch.device("cpu"))


def colours_of(image: Tensor) -> set[tuple[int, ...]]:
    return set(map(tuple, image.flatten(1).T.tolist()))


def plane(*colours: str, side: int = 8) -> Image.Image:
    """Stripes of the colours, side by side."""
    rows = np.repeat(np.array([read_colour("", c) for c in colours], np.uint8), side // len(colours), axis=0)
    return Image.fromarray(np.broadcast_to(rows[:, None], (len(rows), side, 3)).copy())


# The shipped set


@pytest.mark.parametrize("index", range(6))
def test_a_label_map_is_what_is_seen(index: int) -> None:
    source, rng = EmojiSource(), numpy_rng(index)
    record, scene = source.record("labels", "test", index, rng), source.scene("labels", "test", index, numpy_rng(index))
    assert record.map is not None
    assert colours_of(record.map) <= {read_colour(name, c) for name, c in EMOJI.items()}
    assert torch.equal(record.image, source.draw(scene))
    without = draw(type(scene)(scene.style, (), scene.background), source.pack, source.side)
    background = (record.map == 0).all(0).numpy()
    changed = (record.image.permute(1, 2, 0).numpy() != without).any(-1)
    assert changed[~background].mean() > 0.9  # an emoji may have a colour of the background
    top, covered = list(cover(scene, source.pack, source.side))[-1]
    expected = read_colour("", EMOJI[top.portrait.emoji.category])
    assert colours_of(record.map[:, torch.from_numpy(covered)]) == {expected}  # what was laid last is seen whole


def test_levels_follow_what_lies_over_what() -> None:
    source, seen = EmojiSource(), set()
    for index in range(40):
        record, scene = (f("order", "train", index, numpy_rng(index)) for f in (source.record, source.scene))
        assert isinstance(record, Record)
        assert record.map is not None
        covers = [covered for _, covered in cover(scene, source.pack, source.side)]
        levels: list[int] = []
        for k, covered in enumerate(covers):  # over every pair, where the source looks at the levels drawn so far
            visible = [
                covers[i] & ~np.logical_or.reduce([*covers[i + 1 : k], np.zeros_like(covered)]) for i in range(k)
            ]
            levels.append(1 + max((levels[i] for i in range(k) if (visible[i] & covered).any()), default=0))
        expected = np.zeros((64, 64), int)
        for level, covered in zip(levels, covers, strict=True):
            expected[covered] = level
        assert np.array_equal(np.array(LEVELS)[expected], record.map.permute(1, 2, 0).numpy())
        seen.add(max(levels))
    assert seen == {1, 2, 3}


@pytest.mark.parametrize("need", ["labels", "order"])
def test_maps_are_new_scenes_of_the_splits_own_emoji(need: Need) -> None:
    source = EmojiSource()
    own = {emoji.base for emoji in source.pack.of("validation")}
    for index in range(20):
        assert source.scene(need, "validation", index, numpy_rng(index)).bases <= own
    assert source.size(need, "test") == source.size("picture", "test")


# Maps of others


def write_maps(folder: Path, maps: list[Image.Image]) -> str:
    """A folder of grey pictures with label maps."""
    side = maps[0].width
    lines = [{"file_name": f"{i}.png", "labels_file_name": f"map{i}.png"} for i in range(len(maps))]
    pictures = {f"{i}.png": plane("#777777", side=side) for i in range(len(maps))}
    return str(write_folder(folder, lines, {**pictures, **{f"map{i}.png": m for i, m in enumerate(maps)}}))


def test_label_maps_of_a_folder_keep_their_colours(tmp_path: Path) -> None:
    """Also where they are resized, and where the file holds numbers of a colour table."""
    indexed = plane(*ROAD.values(), side=50).quantize(2)
    source = TableSource(labels=write_maps(tmp_path / "maps", [indexed] * 12), size=16)
    records = [source.record("labels", "train", i, numpy_rng(i)) for i in range(4)]
    batch = Batch.collate([Segment(ROAD).make(record, numpy_rng(0), 0) for record in records])
    assert len(find_palette(batch.target)) == 2
    assert batch.target.shape == batch.source.shape == (4, 3, 16, 16)
    assert not batch.mask.any()


@pytest.mark.parametrize("need", ["labels", "order"])
def test_shards_hold_maps(need: Need, tmp_path: Path) -> None:
    source = EmojiSource(size=16, styles=["noto"])
    write_shards(str(tmp_path / "shards"), {"validation": Samples(source, need, "validation")})
    read = TableSource(**{need: str(tmp_path / "shards")}, size=16)  # type: ignore[arg-type]
    task = Segment() if need == "labels" else Order()
    assert read.size(need, "validation") == source.size(need, "validation")
    for index in range(5):
        record = read.record(need, "validation", index, numpy_rng(0))
        example = task.make(record, numpy_rng(0), 0)
        assert record.map is not None
        assert len(colours_of(record.map)) > 1
        assert example.target.shape == (3, 16, 16)


def test_unknown_colours_are_one_line_before_anything_is_loaded(tmp_path: Path) -> None:
    source = TableSource(labels=write_maps(tmp_path / "maps", [plane("#804080", "#010203")] * 12), size=16)
    data = MixtureModule(source, {"segment": Segment(ROAD)}, workers=0, batch_size=2)
    line = r"\Atask.segment: record '\S+' has 128 pixels of unknown colours, first #010203; expected #804080, #4682b4\Z"
    with pytest.raises(UnknownColour, match=line):
        data.probe()


def test_a_loaders_process_says_the_same_line() -> None:
    line, name = "task.segment: record 'a' has 1 pixels of unknown colours", f"{UnknownColour.__module__}.UnknownColour"
    told = f"Caught UnknownColour in DataLoader worker process 0.\nOriginal Traceback:\n  x\n{name}: {line}\n"
    assert str(UnknownColour(told)) == str(UnknownColour(line)) == line


def test_a_record_without_a_map_is_refused() -> None:
    with pytest.raises(ValueError, match="record 'k' has no map for the task 'order'"):
        Order().make(Record(torch.zeros(3, 8, 8, dtype=torch.uint8), "", "k"), numpy_rng(0), 0)


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ({"road": "#000"}, "expected at least two classes, of different colours"),
        ({"road": "#000", "sky": "black"}, "of different colours"),
        ({"road": "#000", "sky": "sky-ish"}, "palette.sky='sky-ish': expected a colour such as '#804080'"),
    ],
)
def test_a_palette_that_tells_nothing_apart_is_refused(palette: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Segment(palette)


# Judging


def drawn(levels: Tensor) -> Tensor:
    """Levels (n, H, W) as greys (n, 3, H, W) in [-1, 1]."""
    greys = torch.tensor(LEVELS, dtype=torch.float32)[levels]
    return greys.permute(0, 3, 1, 2) / 127.5 - 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_are_torchmetrics(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    truth = torch.randint(4, (2, 6, 6), generator=rng)
    truth[:, 0, :4] = torch.arange(4)  # all four are there
    answer = torch.where(torch.rand(2, 6, 6, generator=rng) < 0.3, torch.randint(2, (2, 6, 6), generator=rng), truth)
    noise = 0.25 * torch.rand(2, 3, 6, 6, generator=rng) - 0.125  # does not lead to another level
    batch = Batch.collate([Example(t, t, t[:1] * 0, "", 0, "k") for t in drawn(truth)])
    outputs = (drawn(answer) + noise).clamp(-1, 1)
    pairs = list(zip(answer, truth, strict=True))
    iou = [float(multiclass_jaccard_index(a[None], b[None], 4)) for a, b in pairs]
    assert MeanIoU("miou").scores(outputs, batch, CPU).tolist() == pytest.approx(iou)
    accuracy = [float(multiclass_accuracy(a[None], b[None], 4, average="micro")) for a, b in pairs]
    assert PixelAccuracy("pixel_accuracy").scores(outputs, batch, CPU).tolist() == pytest.approx(accuracy)
    assert torch.equal(decode(outputs, find_palette(batch.target)).view(2, 6, 6), answer)


def test_photographs_are_no_maps() -> None:
    with pytest.raises(ValueError, match="colours; expected maps of at most 256"):
        find_palette(torch.rand(1, 3, 32, 32))


def test_mean_colours_are_learned_from_the_others() -> None:
    """Two examples with the same colours answer each other; one with colours of its own finds the nearest."""
    truth = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]]).view(3, 2, 2)
    source = torch.where(truth == 0, -0.5, 0.7)[:, None].expand(-1, 3, -1, -1).contiguous()
    batch = Batch.collate([Example(t, s, s[:1] * 0, "", 0, "k") for t, s in zip(drawn(truth), source, strict=True)])
    torch.testing.assert_close(nearest_mean_colour(batch), batch.target)
    alone = batch.rows(torch.tensor([True, False, False]))
    assert torch.equal(nearest_mean_colour(alone), alone.source)
