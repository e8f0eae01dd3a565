"""What a run tells of itself: routers, how far weights have moved, curves. And that W&B gets the end of a run."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import run_script
from method_cases import CANNOT_FOLD, CASES, NAMES, adapted, base, shake, takes
from tiny import TASKS
from wandb.proto.wandb_internal_pb2 import Record

from mtdiff.model.denoiser import Denoiser
from mtdiff.results.record import Result
from mtdiff.runs.method_report import Origin, report_method, report_training, thin_curve

ROOT = Path(__file__).parents[2]


def told(denoiser: Denoiser, backbone: str = "unet") -> dict[str, Any]:
    return report_method(denoiser, Origin.of(base(backbone)))


OTHERS = [(name, other) for name in NAMES for other in ("transformer", "joint") if takes(name, other)]


@pytest.mark.parametrize(("case", "backbone"), [*((case, "unet") for case in CASES), *OTHERS])
def test_nothing_has_moved_before_training(case: str, backbone: str) -> None:
    denoiser = adapted(case, backbone)
    found = told(denoiser, backbone)
    assert json.loads(json.dumps(found)) == found
    assert len(json.dumps(found)) < 8000
    if "reason" in found["deviation"]:
        assert case in CANNOT_FOLD
        return
    assert set(found["deviation"]["tasks"]) == set(TASKS)
    for parts in [*found["deviation"]["tasks"].values(), *found["deviation"]["blocks"].values()]:
        assert all(ratio is None or ratio < 1e-6 for ratio in parts.values()) or "top_k" in case


def test_deviation_is_the_relative_length_of_the_change() -> None:
    denoiser = adapted("finetune", "unet")
    weights = Origin.of(base("unet")).weights
    name = next(k for k in weights if k.endswith("attn1.to_q.weight"))
    with torch.no_grad():
        denoiser.trained_parameters()[name].mul_(1.5)
    parts = told(denoiser)["deviation"]["tasks"]["edit"]
    norm = math.sqrt(sum(float(w.square().sum()) for k, w in weights.items() if ".attn1." in k))
    assert parts["self_attention"] == pytest.approx(0.5 * float(weights[name].norm()) / norm, rel=1e-3)
    assert {k for k, v in parts.items() if v} == {"self_attention"}


def test_additions_count_as_the_weights_they_amount_to() -> None:
    """LoRA: only the feed-forward layers, and the task's own; the input convolution is trained too."""
    denoiser = shake(adapted("lora_ffn", "unet"), 0.1)
    found = told(denoiser)["deviation"]["tasks"]
    assert {k for k, v in found["edit"].items() if v} == {"ffn", "input"}
    assert found["edit"]["ffn"] != found["inpaint"]["ffn"]
    assert {
        k for k, v in told(shake(adapted("dtr", "unet"), 0.1))["deviation"]["tasks"]["edit"].items() if not v
    } == set()


def test_routers_are_told_by_block_and_task() -> None:
    denoiser = shake(adapted("mtu", "unet"), 0.3)
    router = told(denoiser)["router"]
    assert list(router) == [site.name for site in base("unet").sites("ffn")]
    for rows in router.values():
        assert list(rows) == list(TASKS)
        assert all(sum(w) == pytest.approx(1, abs=1e-3) for w in rows.values())
    site = denoiser.backbone.sites("ffn")[0]
    w = site.module.gates(torch.tensor([3]))[0]  # type: ignore[operator]
    assert router[site.name]["inpaint"] == pytest.approx(w.tolist(), abs=1e-4)
    by_time = told(shake(adapted("mtu router_input=task_timestep", "unet"), 0.3))
    assert all(sum(w) == pytest.approx(1, abs=1e-3) for rows in by_time["router"].values() for w in rows.values())
    assert "timestep" in by_time["deviation"]["reason"]


def test_curves_are_short_and_keep_their_mean() -> None:
    points = [(step, float(step)) for step in range(0, 1000, 10)]
    curve = thin_curve(points)
    assert len(curve["steps"]) == len(curve["values"]) == 24
    assert curve["steps"][0] < curve["steps"][-1]
    assert curve["values"] == pytest.approx(curve["steps"], abs=1)
    assert thin_curve([]) == {"steps": [], "values": []}
    rows = [{"step": str(s), "train/cosine/edit/inpaint": str(v)} for s, v in ((1, 0.5), (2, -0.1), (3, math.nan))]
    rows.append({"step": "3", "train/loss/edit": "0.25", "lr-AdamW": "1"})
    found = report_training(rows)
    assert found["cosines"] == {"edit/inpaint": {"mean": 0.2, "sd": 0.3, "n": 2}}
    assert "layer_cosines" not in found
    by_layer = report_training([{"step": "1", "train/layer_cosine/conv_in": "0.5"}])
    assert by_layer == {"curves": {}, "layer_cosines": {"conv_in": {"mean": 0.5, "sd": 0.0, "n": 1}}}
    assert found["curves"]["train/loss/edit"] == {"steps": [3], "values": [0.25]}
    assert report_training([]) == {"curves": {}}


# A run, and what W&B holds of it


def records(path: Path) -> Iterator[Record]:
    """The records of a `.wandb` file: LevelDB's log format after a header of 7 bytes, blocks of 32 KiB, each piece with
    a checksum (4 bytes), its length (2) and its kind (whole, first, middle, last)."""
    data, place, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "edit"
    options = (
        "method=mtu balancing=pcgrad tasks=[edit,inpaint] training.steps=10 training.batch_size=4 training.workers=0 "
        "training.sample_every=null training.validate_every=5 training.save_every=null evaluation.per_task=2 "
        "evaluation.validation_per_task=1 evaluation.baselines=false sampling.steps=1 trainer.accelerator=cpu "
        "progress=false logger.wandb=true logger.group=study logger.tags=[mine]"
    )
    done = run_script("experiments/run.py", f"run_dir={folder}", *options.split())
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_run_carries_its_report(run: Path) -> None:
    result = Result.load(run / "result.json")
    report = result.method_report
    assert set(report) == {
        "router",
        "router_alive",
        "summary",
        "deviation",
        "curves",
        "cosines",
        "layer_cosines",
        "data_hash",
    }
    assert report["cosines"]["edit/inpaint"]["n"] == 1
    assert any(name.endswith(".ff") for name in report["layer_cosines"])
    assert report["deviation"]["tasks"]["edit"]["ffn"] > 0
    assert report["deviation"]["tasks"]["edit"]["self_attention"] == 0
    assert len(report["curves"]["validation/loss/edit"]["steps"]) == 2
    assert len(json.dumps(report)) < 8000
    assert any(row.values is not None and len(row.values) == 2 for row in result.rows)


def test_wandb_holds_the_whole_run(run: Path) -> None:
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    found = list(records(path))
    (start,) = (r.run for r in found if r.WhichOneof("record_type") == "run")
    assert (start.project, start.run_group, start.display_name) == ("mtdiff", "study", "edit")
    assert set(start.tags) == {"MTU", "edit", "inpaint", "mine"}
    config = {item.key: json.loads(item.value_json) for item in start.config.update}
    assert config["training"]["steps"] == 10
    assert config["method"]["_target_"] == "mtdiff.methods.mtu.MTU"
    history: dict[str, Any] = {}
    for r in found:
        if r.WhichOneof("record_type") == "history":
            history |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in r.history.item}
    result = Result.load(run / "result.json")
    assert {"train/loss/edit", "validation/loss/inpaint", "train/cosine/edit/inpaint"} <= set(history)
    psnr = next(row for row in result.rows if (row.task, row.metric) == ("edit", "psnr"))
    assert history["run/edit/psnr"] == pytest.approx(psnr.value)
    assert history["evaluation/_type"] == "table-file"
    table = json.loads((path.parent / "files" / history["evaluation/path"]).read_text())
    assert table["columns"][:3] == ["model", "task", "metric"]
    assert [line[1:3] for line in table["data"]] == [[row.task, row.metric] for row in result.rows]
    pictures_path = path.parent / "files" / history["pictures/path"]
    shown = json.loads(pictures_path.read_text())
    assert shown["columns"] == ["task", "example", "prompt", "source", "answer", "truth"]
    assert [line[:2] for line in shown["data"]] == [[task, i] for task in ("edit", "inpaint") for i in range(2)]
    kept = next(
        r.artifact for r in found if r.WhichOneof("record_type") == "artifact" and "pictures" in r.artifact.name
    )
    assert sum(entry.path.startswith("media/images/") for entry in kept.manifest.contents) == 3 * len(shown["data"])
    assert history["samples/captions"] == [f"{task}: source, answer, truth" for task in ("edit", "inpaint")]
    pictures = [path.parent / "files" / name for name in history["samples/filenames"]]
    assert [p.read_bytes() for p in pictures] == [(run / f"samples/{t}.png").read_bytes() for t in ("edit", "inpaint")]
