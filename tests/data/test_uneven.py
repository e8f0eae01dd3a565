"""Uneven mixtures: shares and temperatures, rows for some tasks alone, and who starves."""

from collections import Counter
from pathlib import Path

import pytest
from little_sets import number, picture, write_folder
from whole_runs import composed

from mtdiff.commands.compose import spread_shares
from mtdiff.data.emoji.source import EmojiSource
from mtdiff.data.mixture import Mixture
from mtdiff.data.module import MixtureModule
from mtdiff.data.tables.source import TableSource
from mtdiff.rng import numpy_rng
from mtdiff.tasks.denoise import Denoise
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.label_maps import Order
from mtdiff.training.starvation import report_starvation


def test_shares_stand_beside_the_tasks() -> None:
    plain, _ = composed(["tasks={edit:2,order:0.5}"])
    assert plain["tasks"] == ["edit", "order"]
    assert {name: plain["weights"][name] for name in plain["tasks"]} == {"edit": 2, "order": 0.5}
    for wrong, message in (
        ("tasks={edit:0}", "weights.edit=0: expected a finite number above 0"),
        ("tasks={edt:1}", "expected one of .*did you mean 'edit'"),
        ("training.temperature=0", "training.temperature=0: expected a positive, finite number, or null"),
    ):
        with pytest.raises(ValueError, match=message):
            composed([wrong])
    for wrong, message in (
        ("tasks={edit:1},{order:1}", "one mixture in a call; a suite lists several"),
        ("tasks={edit", "expected tasks and their shares, such as"),
    ):
        with pytest.raises(ValueError, match=message):
            spread_shares([wrong])


@pytest.mark.parametrize(("temperature", "power"), [(1.0, 1.0), (2.0, 0.5), (1e6, 0.0)])
def test_a_temperature_counts_records(temperature: float, power: float) -> None:
    """Edits are 14200 in training, pictures 2584."""
    tasks = {task.name: task for task in (Edit(), Denoise())}
    data = MixtureModule(EmojiSource(size=16), tasks, {"denoise": 3.0}, workers=0, temperature=temperature)
    assert isinstance(data.train, Mixture)
    edits, pictures = data.train.count_examples(10_000)
    assert pictures / edits == pytest.approx(3 * (2584 / 14200) ** power, rel=0.01)


def test_examples_are_counted_as_they_come() -> None:
    mixture = Mixture(EmojiSource(size=16), [Edit(), Denoise(), Order()], [2, 1, 0.5], seed=3)
    for many in (0, 1, 13, 60):
        seen = Counter(mixture.cycle.at(i)[0] for i in range(many))
        assert mixture.count_examples(many) == [seen[k] for k in range(3)]


def folder(path: Path) -> str:
    """One folder: rows 0 to 29, of which every third is an edit, and every fifth has a map of the order."""
    lines, pictures = [], {}
    for i in range(30):
        line = {"file_name": f"{i}.png", "text": f"picture {i}"}
        pictures[f"{i}.png"] = picture(i)
        if i % 3 == 0:
            line |= {"edited_file_name": f"e{i}.png", "instruction": f"change {i}"}
            pictures[f"e{i}.png"] = picture(i + 100)
        if i % 5 == 0:
            line |= {"order_file_name": f"o{i}.png"}
            pictures[f"o{i}.png"] = picture(0).point(lambda _: 85)
        lines.append(line)
    return str(write_folder(path, lines, pictures))


def test_a_folder_serves_each_task_with_the_rows_that_can(tmp_path: Path) -> None:
    where = folder(tmp_path / "all")
    source = TableSource(picture=where, edit=where, order=where, size=16)
    found = {}
    for need in ("picture", "edit", "order"):
        rows = [source.record(need, "train", i, numpy_rng(0)) for i in range(source.size(need, "train"))]
        found[need] = [number(record.image) for record in rows]
        assert sorted(source.order(need, "train", numpy_rng(1))) == list(range(len(rows)))
    held_out = set(range(30)) - set(found["picture"])
    assert 0 < len(held_out) < 6
    assert set(found["edit"]) == set(range(0, 30, 3)) - held_out
    assert set(found["order"]) == set(range(0, 30, 5)) - held_out
    assert source.count_skipped() == {}


def test_half_an_edit_is_broken_and_said(tmp_path: Path) -> None:
    lines = [{"file_name": f"{i}.png", "edited_file_name": f"{i}.png", "instruction": "x"} for i in range(20)]
    for line in lines[:10]:
        del line["instruction"]
    source = TableSource(
        edit=str(write_folder(tmp_path / "x", lines, {f"{i}.png": picture(i) for i in range(20)})), size=16
    )
    for i in range(source.size("edit", "train")):
        source.record("edit", "train", i, numpy_rng(0))
    assert source.size("edit", "train") == 18
    assert 7 <= source.count_skipped()["edit/train"] <= 10


def test_the_report_tells_who_starves() -> None:
    rows = [
        {"step": "1", "validation/loss/edit": "0.5", "validation/gradient/edit": "2.0"},
        {"step": "1", "train/loss/edit": "0.1"},
        {"step": "2", "validation/loss/edit": "0.25", "validation/gradient/edit": "nan"},
    ]
    none = {"first": None, "last": None}
    assert report_starvation(["edit", "order"], [7, None], rows) == {
        "edit": {"examples": 7, "gradient": {"first": 2.0, "last": None}, "validation": {"first": 0.5, "last": 0.25}},
        "order": {"examples": None, "gradient": none, "validation": none},
    }
