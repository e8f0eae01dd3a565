"""experiments/benchmark.py: every part in its quick form, ratios by hand, and that the variants do the same work."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.experts import Loop, compare_size
from benchmarks.folded import compare_folded
from benchmarks.timing import Bar, Comparison, How, take_turns
from tiny import tiny_unet
from torch import nn

from mtdiff.commands.browser import MISSING, find_browser
from mtdiff.commands.command import guard
from mtdiff.methods import experts as layer
from mtdiff.methods.experts import Experts
from mtdiff.methods.mtu import MTU
from mtdiff.methods.routing import Routing

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
QUICK = How(quick=True)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    yield importlib.import_module("benchmark")
    for name in ("benchmark", "cost", "run"):
        sys.modules.pop(name, None)


# Ratios


def test_turns_alternate_and_the_warm_up_does_not_count() -> None:
    called: list[str] = []
    variants = {name: (lambda name=name: called.append(name)) for name in "abc"}
    seconds = take_turns(variants, How(), turns=2, warmup=1)
    assert called == list("abcabcabc")
    assert {name: len(values) for name, values in seconds.items()} == {"a": 2, "b": 2, "c": 2}
    assert all(value > 0 for values in seconds.values() for value in values)


def test_a_call_may_time_itself() -> None:
    assert take_turns({"a": lambda: 3.0}, How(), turns=2, warmup=0) == {"a": [3.0, 3.0]}


def test_ratios_are_taken_turn_by_turn() -> None:
    seconds = {"a": [1.0, 8.0, 3.0], "b": [2.0, 4.0, 4.0]}
    bars = (Bar("a", "b", "time", most=1.0), Bar("a", "b", "speed", least=1.5), Bar("b", "a"))
    time, speed, told = Comparison("part", "case", seconds, bars, {}).rows()
    assert time["ratio"] == {"median": 0.75, "low": 0.625, "high": 1.375, "least": 0.5, "most": 2.0}
    assert speed["ratio"]["median"] == pytest.approx(4 / 3)
    assert (time["verdict"], speed["verdict"], told["verdict"]) == ("met", "undecided", None)
    assert (time["asked"], speed["asked"], told["asked"]) == ("at most 1", "at least 1.5", "")


@pytest.mark.parametrize(
    ("low", "median", "high", "verdict"),
    [
        (0.9, 0.99, 1.3, "met"),
        (0.9, 0.97, 0.975, "missed"),
        (0.9, 0.97, 0.99, "undecided"),
        (1.01, 1.03, 2, "undecided"),
    ],
)
def test_verdict_of_a_band(low: float, median: float, high: float, verdict: str) -> None:
    assert Bar("a", "b", "time", 0.98, 1.02).verdict(low, median, high) == verdict


# Parts


def plain(script: Any, out: Path, *arguments: str) -> dict[str, Any]:
    script.main([*arguments, "quick=true", f"out={out}"])
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    ("part", "cases", "bars"),
    [
        ("experts", 4, {("fused", "dense"): 4, ("fused", "loop"): 4, ("loop", "dense"): 4}),
        ("folded", 2, {("folded", "base"): 2}),
        ("training", 1, {(name, "finetune"): 1 for name in ("mtu", "lora_ffn", "ia3", "dtr", "one_pic")}),
        ("loop", 1, {("ours", "bare"): 1}),
        ("checkpoints", 1, {("save", "steps between"): 1}),
        ("cache", 1, {("cached", "uncached"): 1}),
        ("sampling", 2, {("mtu", "pipeline"): 2, ("folded", "pipeline"): 2}),
        ("mixed", 1, {("mixed", "separate"): 1}),
        ("report", 2, {("2 runs", "1 runs"): 2}),
        ("inherit", 1, {(f"{level} every {n}", "whole"): 1 for level in ("block", "layer", "unit") for n in (2, 3, 5)}),
    ],
)
def test_part(
    part: str, cases: int, bars: dict[tuple[str, str], int], script: Any, tmp_path: Path, capsys: Any
) -> None:
    if part == "report" and find_browser() is None:
        pytest.skip(MISSING)
    found = plain(script, tmp_path / "b.json", f"what={part}", "repeats=2")
    comparisons = found["comparisons"]
    assert [c["part"] for c in comparisons] == [part] * cases
    rows = [(row["variant"], row["against"]) for c in comparisons for row in c["rows"]]
    assert {pair: rows.count(pair) for pair in rows} == bars
    for comparison in comparisons:
        assert all(len(values) == 2 and min(values) > 0 for values in comparison["seconds"].values())
        for row in comparison["rows"]:
            assert row["ratio"]["least"] <= row["ratio"]["median"] <= row["ratio"]["most"]
        for name, value in comparison["counts"].items():
            if name.startswith("difference"):  # of pictures in [0, 1], or of a layer's output
                assert 0 < value < 1e-3
    if part == "folded":
        text, edit = (c["counts"] for c in comparisons)
        assert text == {"parameters": 1.0, "flops": 1.0}
        assert all(1 < ratio < 1.01 for ratio in edit.values())
    if part == "report":
        beside, inside = (c["counts"] for c in comparisons)
        assert beside["megabytes, 2 runs"] < inside["megabytes, 2 runs"] < 3
        assert all(value > 0 for counts in (beside, inside) for value in counts.values())
    if part == "cache":
        assert comparisons[0]["counts"]["losses apart"] < 1e-4
        assert comparisons[0]["counts"]["found"] == 1
    assert found["device"].startswith("cpu: ")
    assert found["threads"] == torch.get_num_threads()
    assert found["settings"]["what"] == [part]
    assert {"torch", "diffusers"} <= set(found["versions"])
    said = capsys.readouterr().out
    assert all(f"{row['variant']} / {row['against']}" in said for c in comparisons for row in c["rows"])


def test_large_samples_are_measured_the_way_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """`fused` beside what MTU takes on a CPU; here large begins at nothing."""
    monkeypatch.setattr(layer, "LARGE", 0)
    for tokens, way in ((128, "by_sample"), (64, "by_expert")):
        found = compare_size(32, tokens, "four tasks", QUICK, 1)
        assert found.case.endswith(way)
        assert list(found.seconds) == ["dense", "loop", "fused", "mtu"]
        assert found.counts["difference"] < 1e-5


def test_the_loop_is_a_loop_over_ordinary_layers() -> None:
    torch.manual_seed(0)
    routing, embedding, method = Routing(), nn.Embedding(4, 64), MTU(experts=4)
    task = torch.arange(4)
    routing.write(task, task)
    fused = Experts(layer.FeedForward(32), "ff", method.options, routing, embedding)
    nn.init.normal_(fused.router.get_parameter("2.weight"))
    looped, x = Loop(fused), torch.randn(4, 6, 32)
    assert len(looped.experts) == 4
    torch.testing.assert_close(looped(x), fused(x), atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in looped.parameters()) == sum(
        p.numel() for name, p in fused.named_parameters() if not name.startswith("router")
    )


def test_folded_by_shapes_alone() -> None:
    """A backbone without values gets random weights, and stays as it is."""
    base = tiny_unet("meta")
    text, edit = compare_folded(base, QUICK, calls=1, turns=1)
    assert (text.counts["parameters"], text.counts["flops"]) == (1.0, 1.0)
    assert edit.counts["parameters"] > 1
    assert all(p.is_meta for p in base.denoiser.parameters())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["what=expert"], "what=expert: expected one of experts, folded"),
        (["repeats=0"], "repeats=0: expected at least 1"),
        (["device=tpu"], "device=tpu: expected one of cpu, cuda"),
        (["precision=float64"], "expected one of float32, bfloat16"),
        (["quick=maybe"], "quick=maybe: expected true or false"),
        (["method=mtv"], "method=mtv: expected one of"),
        (["what=mixed", "tasks=[edit]"], "expected all of text_to_image"),
        (["what=checkpoints", "training.save_every=null"], "training.save_every=None: expected a number"),
    ],
)
def test_mistakes_get_one_line(script: Any, arguments: list[str], expected: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        guard(lambda: script.main(arguments))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert expected in said
