"""Runs with reference pictures from end to end: trained, gone on with, drawn with, added up, judged, and refused."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import draw_sheets
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from whole_runs import SMALL, whole_run

from baselines.trivial import trivial
from mtdiff import load_run
from mtdiff.commands.merge import merge_runs
from mtdiff.results.record import Result
from mtdiff.runs.adapter import read_about
from mtdiff.runs.sums import join_runs

PORTRAITS = ["data.scenes=0", "data.white=1", "tasks=[reference]", "task.reference.hidden=[style]"]
STEPS = ["training.steps=2", "training.save_every=1", "training.cache=null", "training.lr=0.1", "training.warmup=0"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run for each of two references: `object` and `style`."""
    root = tmp_path_factory.mktemp("modules")
    for name in ("object", "style"):
        named = [f"task.reference.reference=[{name}]", f"method.references=[{name}]"]
        named.append(f"evaluation.baselines={str(name == 'style').lower()}")
        result = whole_run(root / name, "method=emma", *PORTRAITS, *STEPS, *named)
        assert result["status"] == "complete"
        assert result["method_report"]["gates"][name][0]["attention"] != 0
    return {name: root / name for name in ("object", "style")}


def picture(value: float) -> torch.Tensor:
    return torch.full((3, 64, 64), value)


def draw(model: Any, **reference: torch.Tensor) -> bytes:
    (drawn,) = model("reference", "cat face", reference=reference)
    return drawn.tobytes()


def test_rows_hold_what_references_are_judged_by(runs: dict[str, Path]) -> None:
    result = json.loads((runs["style"] / "result.json").read_text())
    names = [row["metric"] for row in result["rows"]]
    assert names[:3] == ["clip_score_embedded", "clip_image_similarity_embedded", "clip_reference_similarity_embedded"]
    assert names[3:5] == ["own_of_200_embedded", "style_accuracy_embedded"]
    assert all(row["value"] is not None and len(row["values"]) == 2 for row in result["rows"][:5])
    told = result["method_report"]["judges"]["style_accuracy_embedded"]
    assert told["labels"] == ["noto", "twemoji"]
    assert told["test_accuracy"] > 0.85


def test_the_truths_own_share_stands_beside_the_runs(runs: dict[str, Path]) -> None:
    """By the metrics alone that true pictures may miss; by the others they are perfect."""
    rows = Result.load(runs["style"] / "result.json").rows
    truth = {row.metric: row for row in rows if row.model == "truth"}
    assert list(truth) == ["own_of_200_embedded", "style_accuracy_embedded"]
    own = {row.metric: row for row in rows if row.model == "run"}
    assert all(truth[name].n == own[name].n == 2 and truth[name].value is not None for name in truth)
    assert {"autoencoder", "base", "truth"} <= {row.model for row in rows}


def test_a_run_that_was_stopped_goes_on_exactly(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "again"
    shutil.copytree(runs["object"], folder)
    (folder / "result.json").unlink()
    (folder / "adapter.safetensors").unlink()
    newest = sorted((folder / "checkpoints").iterdir())
    assert len(newest) == 2
    newest[-1].unlink()
    named = ["task.reference.reference=[object]", "method.references=[object]"]
    whole_run(folder, "method=emma", *PORTRAITS, *STEPS, *named)
    own, found = (load_file(f / "adapter.safetensors") for f in (runs["object"], folder))
    assert own.keys() == found.keys()
    assert [k for k in own if not torch.equal(own[k], found[k])] == []


def test_two_runs_add_up(runs: dict[str, Path]) -> None:
    one, other = (load_run(folder) for folder in runs.values())
    a, b = picture(0.5), picture(-0.5)
    plain = draw(one)
    assert plain == draw(other)
    both = load_run(list(runs.values()))
    assert list(both.takes["reference"].references) == ["object", "style"]
    assert draw(both) == plain
    assert draw(both, object=a) == draw(one, object=a) != plain
    assert draw(both, style=b) == draw(other, style=b) != plain
    assert draw(both, object=a, style=b) not in (plain, draw(one, object=a), draw(other, style=b))
    first = load_run(list(runs.values()), weights=[1, 0])
    assert draw(first, object=a, style=b) == draw(one, object=a)
    several = both("reference", ["cat face"] * 3, reference=[{"object": a}, None, {"style": b}])
    none = both("reference", ["cat face"] * 3)
    assert [a.tobytes() == b.tobytes() for a, b in zip(several, none, strict=True)] == [False, True, False]


def test_a_sum_is_a_run(runs: dict[str, Path], tmp_path: Path) -> None:
    own = {"runs": ",".join(map(str, runs.values())), "rule": "sum", "weights": "[1,0.5]", "out": str(tmp_path / "sum")}
    merge_runs(own, [*SMALL, *PORTRAITS[:2]], trivial)
    result = json.loads((tmp_path / "sum" / "result.json").read_text())
    assert (result["method"], result["steps"]) == ("emma_sum", 4)
    assert [part["weight"] for part in result["parts"]] == [1, 0.5]
    assert result["config"]["method"]["weights"] == [1, 0.5]
    a, b = picture(0.5), picture(-0.5)
    kept, summed = load_run(tmp_path / "sum"), load_run(list(runs.values()), weights=[1, 0.5])
    assert draw(kept, object=a, style=b) == draw(summed, object=a, style=b)


def test_the_command_draws_with_references(runs: dict[str, Path], tmp_path: Path) -> None:
    for name, colour in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (64, 64), colour).save(tmp_path / f"{name}.png")
    sample, folders = importlib.import_module("sample").main, ",".join(map(str, runs.values()))
    request = ["task=reference", "prompt=cat face", f"reference.object={tmp_path}/a.png", "steps=1"]
    style = f"reference.style={tmp_path}/b.png"
    sample([f"run={runs['object']}", *request, f"out={tmp_path}/one.png"])
    sample([f"adapter=[{folders}]", "weights=[1,0]", *request, style, f"out={tmp_path}/first.png"])
    sample([f"adapter=[{folders}]", *request, style, f"out={tmp_path}/both.png"])
    one, first, both = ((tmp_path / f"{name}.png").read_bytes() for name in ("one", "first", "both"))
    assert one == first != both
    export = importlib.import_module("export").main
    with pytest.raises(ValueError, match=r"Emma needs its reference pictures: draw with load_run or sample\.py"):
        export([f"adapter=[{folders}]", "task=reference", f"out={tmp_path}/pipeline"])
    for wrong, message in (
        ([f"run={runs['object']}", *request, style], "reference.style: task 'reference' expected one of object"),
        ([f"run={runs['object']}", "weights=[1]", *request], "weights=.1.: expected none beside run="),
        ([f"adapter=[{folders}]", "weights=[1]", *request], "weights=.1.0.: expected 2 finite numbers"),
        ([f"adapter=[{runs['object']},{runs['object']}]", *request], "reference 'object' is in two of the runs"),
    ):
        with pytest.raises(ValueError, match=message):
            sample([*wrong, f"out={tmp_path}/out.png"])


def test_runs_that_do_not_add_up_are_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    about = json.loads((runs["style"] / "adapter.json").read_text())
    task = about["task"]["reference"]
    for change, message in (
        ({"base": "0" * 64}, "was trained on other weights of the base than"),
        ({"method": {**about["method"], "gate": "scalar"}}, r"method\.gate=scalar: \S+ has token; expected the same"),
        ({"task": {"reference": {**task, "kept": 0.5}}}, r"task\.reference\.kept=0\.5: the first run has 1"),
        ({"method": {"_target_": "baselines.ia3.IA3"}}, r"method\._target_=baselines\.ia3\.IA3: "),
    ):
        (tmp_path / "adapter.json").write_text(json.dumps({**about, **change}))
        with pytest.raises(ValueError, match=message):
            join_runs([read_about(runs["object"]), read_about(tmp_path)])


def test_another_encoder_than_that_of_the_training_is_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    """As after its weights have changed under the same name; alone and in a sum."""
    folder = tmp_path / "object"
    shutil.copytree(runs["object"], folder)
    about = json.loads((folder / "adapter.json").read_text())
    assert set(about["beside"]) == {"encoder"}
    line = r"\A[^\n]+: was trained with the encoder of weights 0000[^\n]+encoder=\.\.\.\Z"
    (folder / "adapter.json").write_text(json.dumps({**about, "beside": {"encoder": "0" * 64}}))
    for given in (folder, [folder, runs["style"]]):
        with pytest.raises(ValueError, match=line):
            load_run(given)
    (folder / "adapter.json").write_text(json.dumps({**about, "beside": {"encoder": "x"}}))
    with pytest.raises(ValueError, match=r"beside=.+expected hashes"):
        load_run(folder)


def test_an_encoder_of_others_is_named_by_the_caller(runs: dict[str, Path], tmp_path: Path) -> None:
    about = json.loads((runs["style"] / "adapter.json").read_text())
    for encoder, message in (
        ("/else/where", r"method\.encoder=/else/where: a run may not lead to other files; name an encoder of yours"),
        ("openai/clip-vit-large-patch14", r"method\.revision=None: expected the commit of openai/clip"),
    ):
        changed = {**about, "method": {**about["method"], "encoder": encoder}}
        (tmp_path / "adapter.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=message):
            read_about(tmp_path)
        assert read_about(tmp_path, encoder="nano").method["encoder"] == "nano"
    with pytest.raises(ValueError, match="encoder=nano: expected none, the run's method reads no pictures"):
        read_about(Path("mtu-nano"), encoder="nano")


def test_a_method_whose_references_no_task_gives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"method: reads reference\.object, and the tasks of the run give none"):
        whole_run(tmp_path / "run", "method=emma", "tasks=[text_to_image]")


def test_a_sheet_has_a_column_for_each_set_of_references(runs: dict[str, Path]) -> None:
    """Without references the sum draws what the base does, from the same noise in every column."""
    sheet = draw_sheets.draw_references(load_run(list(runs.values())), 1)
    columns = 2 + 4 + 1  # given: object, style; text alone, object, style, both; truth
    assert sheet.size == (150 + columns * 92 - 4, 17 + 105)
    tiles = [sheet.crop((150 + k * 92, 17, 150 + k * 92 + 88, 17 + 88)).tobytes() for k in range(columns)]
    assert len(set(tiles)) == columns
