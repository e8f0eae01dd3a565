"""Folded denoisers as ONNX: equal to torch, quantised, timed in turn; experiments/studies/onnx_study.py around them."""

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import TASKS, UNET, tiny_unet
from tiny_transformer import TINY_CLIP, TINY_VAE, tiny_transformer

from mtdiff.commands.command import guard
from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.runs import onnx

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module")
def folded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Denoiser, onnx.Exported]:
    """MTU of four experts, disturbed, folded for editing, exported."""
    denoiser = Denoiser(tiny_unet(), MTU(experts=4), TASKS)
    onnx.add_noise(denoiser, 0)
    denoiser.method.fold(denoiser.backbone, 1)
    path = tmp_path_factory.mktemp("onnx") / "plain.onnx"
    return denoiser, onnx.export_onnx(denoiser, path, source=True, task=1)


def test_export_predicts_what_torch_predicts(folded: tuple[Denoiser, onnx.Exported]) -> None:
    denoiser, exported = folded
    assert onnx.relative_error(exported) < 1e-4
    assert set(exported.feed) == {"packed", "t", "text"}
    assert exported.feed["packed"].shape == (1, 9, 8, 8)
    other = {k: v + (k == "packed") for k, v in exported.feed.items()}
    with torch.no_grad():
        expected = denoiser.backbone.denoiser(
            *(torch.from_numpy(other[k]) for k in ("packed", "t")),
            encoder_hidden_states=torch.from_numpy(other["text"]),
        ).sample.numpy()
    (found,) = onnx.make_session(exported.path, 1).run(None, other)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert np.abs(expected - exported.expected).max() > 0.01


def test_an_export_of_something_else_is_noticed(folded: tuple[Denoiser, onnx.Exported]) -> None:
    _, exported = folded
    wrong = replace(exported, feed={k: v + (k == "packed") for k, v in exported.feed.items()})
    assert onnx.relative_error(wrong) > onnx.TOLERANCE


@pytest.mark.parametrize("which", ["linear", "all"])
def test_quantised_weights_are_near(folded: tuple[Denoiser, onnx.Exported], which: Any, tmp_path: Path) -> None:
    _, exported = folded
    small = onnx.quantise(exported, tmp_path / "quantised.onnx", which)
    assert 1e-5 < onnx.relative_error(small) < 0.5
    from onnx import load

    kinds = {node.op_type for node in load(small.path).graph.node}
    assert "MatMulInteger" in kinds
    assert ("ConvInteger" in kinds) == (which == "all")


def test_a_routed_network_reads_the_task(tmp_path: Path) -> None:
    denoiser = Denoiser(tiny_unet(), MTU(experts=2), TASKS)
    onnx.add_noise(denoiser, 0)
    exported = onnx.export_onnx(denoiser, tmp_path / "routed.onnx", source=True, task=1, routed=True)
    assert onnx.relative_error(exported) < 1e-4
    other = replace(exported, feed={**exported.feed, "task": np.array([2])})
    assert onnx.relative_error(other) > 1e-3


def test_a_transformer_is_exported(tmp_path: Path) -> None:
    denoiser = Denoiser(tiny_transformer(), MTU(experts=2), TASKS)
    denoiser.method.fold(denoiser.backbone, 1)
    assert onnx.relative_error(onnx.export_onnx(denoiser, tmp_path / "t.onnx", source=True, task=1)) < 1e-4


def test_rounds_take_every_call_in_turn() -> None:
    order: list[int] = []
    taken = onnx.time_in_turn([lambda k=k: order.append(k) for k in range(3)], repeats=3, warmup=1)  # type: ignore[misc]
    assert order == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    assert taken.shape == (3, 3)
    assert (taken > 0).all()


def test_spread_by_hand() -> None:
    found = onnx.percentiles(np.arange(101.0))
    assert found == {"median": 50, "low": 5, "high": 95}


# experiments/studies/onnx_study.py


@pytest.fixture
def script(monkeypatch: Any) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "studies"))
    yield importlib.import_module("onnx_study")
    for name in ("onnx_study", "cost", "run"):
        sys.modules.pop(name, None)


def unquoted(mapping: dict[str, Any]) -> str:
    """The inside of a mapping as an override gives it."""
    return ", ".join(f"{k}: {{{unquoted(v)}}}" if isinstance(v, dict) else f"{k}: {v}" for k, v in mapping.items())


def test_script_times_every_variant(script: Any, tmp_path: Path, capsys: Any) -> None:
    given = ["backbone.weights=random", "backbone.size=16", "data.size=16"]
    given += [f"backbone.architecture={{{unquoted({'unet': UNET, 'vae': TINY_VAE, 'text_encoder': TINY_CLIP})}}}"]
    own = ["experts=[2]", "threads=[1,2]", "repeats=2", "warmup=0", f"out={tmp_path / 'o.json'}"]
    script.main([*given, *own])
    found = json.loads((tmp_path / "o.json").read_text())
    rows = {(r["experts"], r["variant"], r["threads"]): r for r in found["rows"]}
    assert set(rows) == {(n, v, t) for n in (None, 2) for v in ("plain", "quantised") for t in (1, 2)}
    for (experts, variant, _), row in rows.items():
        for name in ("latency_ms", "ratio"):
            assert 0 < row[name]["low"] <= row[name]["median"] <= row[name]["high"]
        assert row["error"] < 1e-3 or variant == "quantised"
        assert experts is not None or row["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert rows[2, "quantised", 1]["file_mb"] < rows[2, "plain", 1]["file_mb"]
    assert found["study"]["task"] == "edit"
    assert {"onnx", "onnxruntime", "torch"} <= set(found["versions"])
    assert "quantised" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["task=draw"], "task=draw: expected one of text_to_image"),
        (["method=ia3"], "has no experts; expected mtu"),
        (["experts=[0]"], "experts=[0]: expected whole numbers of at least 1"),
        (["threads=[]"], "threads=[]"),
        (["quantise=some"], "expected one of linear, all"),
        (["repeat=3"], "repeat"),
    ],
)
def test_script_answers_mistakes_in_one_line(script: Any, arguments: list[str], expected: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        guard(lambda: script.main(arguments))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert expected in said
