"""A network for a limit, from a run's supernet: searched, written, loaded again, and described."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folders import ABOUT, picture
from safetensors.torch import save_file
from tiny_transformer import architecture
from whole_runs import SMALL, whole_run

from mtdiff.commands.arguments import split_options
from mtdiff.commands.assemble import OWN, assemble_network
from mtdiff.costs.modules import Costs
from mtdiff.methods.assembler import Assembler, find_assembler
from mtdiff.results.phases import Phases
from mtdiff.runs import module_costs
from mtdiff.runs.adapter import identity, read_about
from mtdiff.runs.assemble import Limit, search
from mtdiff.runs.load import build_denoiser, load_run
from mtdiff.runs.module_costs import assemble_copy, build_costs, make_row

DATA = [*SMALL, "evaluation.validation_per_task=2"]
Supernet = tuple[Any, Assembler]


TRANSFORMER = {"_target_": "mtdiff.backbones.dit.load", "weights": "random", "size": 16, "tokens": 16}
TRANSFORMER |= {"architecture": architecture()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny supernet's run, moved off its start."""
    return save_supernet(tmp_path_factory.mktemp("runs") / "supernet", ABOUT["backbone"])


def save_supernet(folder: Path, backbone: dict[str, Any]) -> Path:
    folder.mkdir()
    about = copy.deepcopy(ABOUT) | {"method": {"_target_": "baselines.budgeted.Budgeted", "width": 8}}
    about["backbone"] = backbone
    (folder / "adapter.json").write_text(json.dumps(about))
    torch.manual_seed(0)
    state = build_denoiser(read_about(folder)).adapter()
    moved = {k: (v + 0.05 * torch.randn(v.shape)).contiguous() for k, v in state.items()}
    save_file(moved, folder / "adapter.safetensors", metadata={"about": identity(about)})
    return folder


@pytest.fixture(scope="module")
def supernet(run: Path) -> Supernet:
    denoiser = load_run(run).painter.denoiser
    assembler = find_assembler(denoiser.backbone.denoiser)
    assert assembler is not None
    return denoiser, assembler


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.getbasetemp() / "latency-cache"
    monkeypatch.setenv("MTDIFF_CACHE", str(folder))
    monkeypatch.setattr(module_costs, "DRIFT", float("inf"))  # what a test finds does not depend on a busy machine
    return folder


def assemble(run: Path, out: Path, *arguments: str) -> dict[str, Any]:
    given, overrides = split_options([f"run={run}", f"out={out}", *arguments, *DATA], OWN)
    assemble_network(given, overrides)
    return json.loads((out / "assembly.json").read_text())


def build(supernet: Supernet, *, timed: bool = False, task: int = 1) -> Costs:
    denoiser, assembler = supernet
    return build_costs(denoiser, assembler, task, task > 0, Phases(shown=False), timed=timed)


def test_counts_are_those_of_the_assembled_network(supernet: Supernet) -> None:
    from mtdiff.costs.measure import make_call
    from mtdiff.costs.modules import count_whole

    denoiser, assembler = supernet
    costs = build(supernet)
    for budget in (1.0, 0.6, 0.2):
        keep, _ = assembler.propose(1, budget)
        small = assemble_copy(denoiser, keep, 1)
        flops, weights, activations = count_whole(small.backbone.denoiser, make_call(small, make_row(small, True)))
        assert (costs.count_flops(keep), costs.count_weights(keep)) == (flops, weights)
        assert 0.2 * costs.activations < activations <= costs.activations


def test_latencies_are_measured_once_and_add_up(supernet: Supernet, cache: Path) -> None:
    costs = build(supernet, timed=True)
    (path,) = (cache / "latencies").iterdir()
    written = path.stat().st_mtime_ns
    table = costs.table
    assert table is not None
    assert build(supernet, timed=True).table == table
    assert path.stat().st_mtime_ns == written
    everything, nothing = ([on] * len(costs.parts) for on in (True, False))
    assert costs.predict_latency(nothing) == pytest.approx(table.rest)
    layers = sum(times[-1] for times in table.layers.values())
    assert costs.predict_latency(everything) == pytest.approx(table.rest + sum(table.blocks.values()) + layers)
    path.write_text("{")  # as a process leaves it that was killed
    assert build(supernet, timed=True).table is not None


def test_a_table_of_another_speed_is_made_anew(
    supernet: Supernet, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that was measured while the machine was busy: here ten times as slow as it is."""
    table = build(supernet, timed=True).table
    (path,) = (cache / "latencies").iterdir()
    assert table is not None
    slow = {
        "rest": 10 * table.rest,
        "blocks": {name: 10 * ms for name, ms in table.blocks.items()},
        "layers": {name: [10 * ms for ms in times] for name, times in table.layers.items()},
    }
    path.write_text(json.dumps(slow))
    monkeypatch.setattr(module_costs, "DRIFT", 0.7)
    again = build(supernet, timed=True).table
    assert again is not None
    assert again.rest < 5 * table.rest
    assert json.loads(path.read_text())["rest"] == again.rest
    assert "measured anew" in caplog.text


def test_the_same_seed_gives_the_same_assembly(supernet: Supernet) -> None:
    """And the search ends within its limit, never worse than what it began with."""
    _, assembler = supernet
    costs = build(supernet)
    limit = Limit("flops", 0.6 * costs.flops)
    weights = torch.rand(len(costs.parts), generator=torch.Generator().manual_seed(0))

    def judge(keep: list[bool]) -> torch.Tensor:
        return 1 - (weights * torch.tensor(keep)).sum() / weights.sum() + torch.zeros(3)

    found, again, other = (search(assembler, 1, limit, costs, judge, candidates=30, seed=seed) for seed in (0, 0, 1))
    assert (found.keep, found.tried) == (again.keep, again.tried)
    assert found.tried > 0
    assert costs.predict("flops", found.keep) <= limit.value
    assert found.errors.mean() <= judge(found.proposal).mean()
    assert other.tried != found.tried or other.keep != found.keep


@pytest.mark.parametrize("kind", ["flops", "memory_mb", "latency_ms"])
def test_a_network_for_each_limit(
    run: Path, supernet: Supernet, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = build(supernet, timed=kind == "latency_ms")
    whole, least = (costs.predict(kind, [on] * len(costs.parts)) for on in (True, False))
    limit, out = f"{kind}={(whole + least) / 2}", tmp_path / "small"
    onnx = "true" if kind == "flops" else "false"
    card = assemble(run, out, "task=edit", limit, "candidates=4", f"onnx={onnx}")
    assert card["promised"][kind] <= card["limit"]["value"]
    assert card["measured"]["flops"] == card["promised"]["flops"]
    assert card["measured"]["parameters"] < card["whole"]["parameters"]
    assert card["error"]["low"] <= card["error"]["value"] <= card["error"]["high"]
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("promised", "measured", "parameters", "error", "difference"))
    assert (out / "denoiser.onnx").exists() == (onnx == "true")
    model = load_run(out)
    assert list(model.tasks) == ["edit"]
    (drawn,) = model("edit", prompt="make it blue", image=picture())
    assert drawn.size == (16, 16)


def test_a_network_from_a_transformer(tmp_path: Path) -> None:
    """Its blocks and slices go as a U-Net's do; what is left is loaded, drawn with, and runs as ONNX."""
    run = save_supernet(tmp_path / "run", TRANSFORMER)
    model = load_run(run)
    denoiser, assembler = model.painter.denoiser, find_assembler(model.painter.denoiser.backbone.denoiser)
    assert assembler is not None
    costs = build((denoiser, assembler), task=2)
    whole, least = (costs.predict("flops", [on] * len(costs.parts)) for on in (True, False))
    card = assemble(run, tmp_path / "small", "task=super_resolution", f"flops={(whole + least) / 2}", "candidates=2")
    assert card["measured"]["flops"] == card["promised"]["flops"] <= card["limit"]["value"]
    assert 0 < len(card["gone"]) < len(costs.parts)
    assert (tmp_path / "small" / "denoiser.onnx").exists()
    (drawn,) = load_run(tmp_path / "small")("super_resolution", image=picture())
    assert drawn.size == (16, 16)


WRONG = [
    (["task=edit"], r"limit=none: expected exactly one of latency_ms=..., flops=..., memory_mb=..."),
    (["task=edit", "flops=1e6", "memory_mb=3"], r"limit=flops, memory_mb: expected exactly one of [^\n]*"),
    (["task=edit", "flops=many"], r"flops=many: expected a finite number of at least 0"),
    (["task=edit", "flops=0"], r"flops=0: expected a number above 0"),
    (["task=draw", "flops=1e6"], r"task=draw: expected one of [^\n]*"),
    (["task=edit", "flops=1000"], r"flops=1000: nothing of this run is so small, the least is [\d.e+]+ FLOPs"),
    (["task=edit", "memory_mb=0.001"], r"memory_mb=0.001: nothing of this run is so small, the least is [\d.]+ MB"),
    (["task=edit", "latency_ms=0.001"], r"latency_ms=0.001: nothing of this run is so small, the least is [\d.]+ ms"),
]


@pytest.mark.parametrize(("arguments", "line"), WRONG)
def test_mistakes_get_one_line(run: Path, tmp_path: Path, arguments: list[str], line: str) -> None:
    with pytest.raises(ValueError, match=rf"\A{line}\Z"):
        assemble(run, tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


def test_a_run_of_one_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\Arun=mtu-nano: has one size, expected a run of method=budgeted\Z"):
        assemble(Path("mtu-nano"), tmp_path / "out", "task=edit", "flops=1e9")


def test_a_whole_run_is_drawn_at_a_budget(tmp_path: Path) -> None:
    """Trained, judged at half the cost, and loaded as it was judged."""
    options = ["method=budgeted", "sampling.budget=0.5", "tasks=[edit]", "training.batch_size=2"]
    found = whole_run(tmp_path / "run", *options, "training.steps=1")
    assert found["status"] == "complete"
    assert found["config"]["sampling"]["budget"] == 0.5
    assert 0.4 < found["cost"]["flops"] / found["cost"]["picture_flops"] * 2 < 1.01
    assert load_run(tmp_path / "run").painter.budget == 0.5
