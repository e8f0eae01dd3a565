"""Parameters, FLOPs in both conventions, latency, memory, disk, and experiments/cost.py around them."""

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
import yaml
from diffusers import DiTTransformer2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from tiny import BACKBONES, TASKS, sd15_shapes, sdxl_shapes, tiny_unet
from torch import Tensor, nn

from mtdiff.commands.command import guard
from mtdiff.costs import measure as cost
from mtdiff.costs.flops import (
    Flops,
    count_flops,
    count_step_flops,
    encode_prompt,
    guide_row,
    has_source,
    make_condition,
)
from mtdiff.methods.base import Method
from mtdiff.methods.mtu import MTU
from mtdiff.methods.routing import Routing
from mtdiff.methods.untouched import Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.sampling import Guidance
from mtdiff.results.record import Result
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.inpaint import Inpaint
from mtdiff.tasks.label_maps import Order
from mtdiff.tasks.super_resolution import SuperResolution
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.types import Text

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
METHODS = ("mtu", "finetune", "lora_ffn", "ia3", "dtr", "one_pic")


def method(name: str, **options: Any) -> Method:
    given = {**yaml.safe_load((EXPERIMENTS / "configs" / "method" / f"{name}.yaml").read_text()), **options}
    cls: Any = locate(given.pop("_target_"))
    return cls(**given)


def true_size(name: str) -> tuple[Any, Text]:
    """A UNet of true size at 64 x 64 latents, and text of 77 tokens for it."""
    if name == "sd15":
        backbone, text = sd15_shapes(), Text(torch.ones(1, 77, 768))
    else:
        backbone = sdxl_shapes()
        extra = {"text_embeds": torch.ones(1, 1280)}
        text = Text(torch.ones(1, 77, 2048), extra)
    backbone.latent_shape = (4, 64, 64)
    return backbone, text


# Counting


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("kernel", ["fused", "plain"])
def test_attention_products_by_hand(kernel: str, device: str) -> None:
    """Tokens 6 and 5, width 8 of 2 heads, B = 3."""
    with torch.device(device):
        net = Attention(query_dim=8, cross_attention_dim=4, heads=2, dim_head=4)
        x, y = torch.ones(3, 6, 8), torch.ones(3, 5, 4)
    if kernel == "plain":
        net.set_processor(AttnProcessor())
    products = 2 * 3 * 6 * 5 * 8 * 2
    projections = 2 * 3 * (6 * 8 * 8 * 2 + 5 * 4 * 8 * 2)
    assert count_flops(net, lambda: net(x, y)) == Flops(products + projections, products)


class LowRank(nn.Module):
    """A projection with a product of its own for every sample, as adapters per task have."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear, self.a = linear, nn.Parameter(torch.ones(3, 8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.bmm(x, self.a)


def test_batched_products_of_projections_are_no_attention() -> None:
    """Also below `to_out`, a list that is never entered itself."""
    net = Attention(query_dim=8, heads=2, dim_head=4)
    before = count_flops(net, lambda: net(torch.ones(3, 6, 8)))
    net.to_q, net.to_out[0] = LowRank(net.to_q), LowRank(net.to_out[0])
    after = count_flops(net, lambda: net(torch.ones(3, 6, 8)))
    assert after.attention == before.attention == 2 * 3 * 6 * 6 * 8 * 2
    assert after.total - before.total == 2 * (2 * 3 * 6 * 8 * 8)


@pytest.mark.parametrize(("side", "macs"), [(32, 118.667e9), (64, 524.58e9)])
def test_published_count_of_dit_xl_2(side: int, macs: float) -> None:
    """118.6 and 525 "Gflops" in arXiv 2212.09748, which are multiply-adds."""
    with torch.device("meta"):
        net = DiTTransformer2DModel(sample_size=side, out_channels=8, num_embeds_ada_norm=1000)
        x, t = torch.ones(1, 4, side, side), torch.ones(1, dtype=torch.long)
    assert count_flops(net, lambda: net(x, t, t)).total / 2 == pytest.approx(macs, rel=2e-4)


TRUE = {"sd15": (0.803, 0.677, 0.80327, 859.5), "sdxl": (1.589, 1.534, 1.58886, 2567.5)}


@pytest.mark.parametrize("name", TRUE)
def test_base_of_true_size(name: str) -> None:
    flops, no_attn, exact, parameters = TRUE[name]
    backbone, text = true_size(name)
    denoiser = Denoiser(backbone, Untouched(), TASKS)
    counted = count_step_flops(denoiser, make_condition(backbone, text, source=True)).as_dict()
    assert round(counted["flops"] / 1e12, 3) == flops
    assert round(counted["flops_no_attn"] / 1e12, 3) == no_attn
    assert counted["flops"] / 1e12 == pytest.approx(exact, abs=1e-4)
    assert round(cost.count_parameters(denoiser)["total"] / 1e6, 1) == parameters
    assert cost.count_parameters(denoiser)["trainable"] == 0


@pytest.mark.parametrize(("name", "experts", "most"), [("sd15", 4, 870e6), ("sdxl", 1, 2.6e9)])
def test_mtu_of_true_size_costs_what_the_base_costs(name: str, experts: int, most: float) -> None:
    backbone, text = true_size(name)
    row = make_condition(backbone, text, source=True)
    base = count_step_flops(Denoiser(backbone, Untouched(), TASKS), row).as_dict()
    denoiser = Denoiser(backbone, MTU(experts=experts), TASKS)
    counted = count_step_flops(denoiser, row).as_dict()
    for convention in ("flops", "flops_no_attn"):
        assert base[convention] < counted[convention] < 1.015 * base[convention]
    assert counted["flops"] - counted["flops_no_attn"] == base["flops"] - base["flops_no_attn"]
    found = cost.count_parameters(denoiser, 4)
    assert found["total"] == found["total_for_all_tasks"] <= most
    assert found["trainable"] > {"sd15": 148.8e6, "sdxl": 1229.5e6}[name]


def test_canvas_at_its_true_price() -> None:
    """924 G multiply-adds with a source, 2.3 times the base; the target alone without one."""
    backbone, text = true_size("sd15")
    denoiser = Denoiser(backbone, method("one_pic", train="full"), TASKS)
    with_source = count_step_flops(denoiser, make_condition(backbone, text, source=True)).total
    alone = count_step_flops(denoiser, make_condition(backbone, text, source=False)).total
    assert with_source / 2 == pytest.approx(924e9, rel=2e-3)
    assert alone / 2 == pytest.approx(401.64e9, rel=2e-4)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", BACKBONES)
def test_shapes_alone_are_counted_as_values_are(name: str, family: str) -> None:
    counts = []
    for weights in ("random", "meta"):
        backbone: Any = BACKBONES[family](weights)  # type: ignore[call-arg]
        denoiser = Denoiser(backbone, method(name), TASKS)
        text = encode_prompt(backbone)
        rows = [make_condition(backbone, text, source, 1) for source in (True, False)]
        rows.append(guide_row(rows[0], text, Guidance(1.5, 3.0)))
        counts.append([count_step_flops(denoiser, row) for row in rows])
    assert counts[0] == counts[1]
    assert all(flops.total > flops.attention > 0 for flops in counts[0])


def test_counting_leaves_the_model_as_it_was() -> None:
    backbone = tiny_unet("meta")
    denoiser = Denoiser(backbone, MTU(experts=2), TASKS)
    predict, row = backbone.predict, make_condition(backbone, encode_prompt(backbone), source=True)
    count_step_flops(denoiser, row)
    assert backbone.predict == predict
    with pytest.raises(RuntimeError):  # also where the call fails: a text of another width
        count_step_flops(denoiser, make_condition(backbone, Text(torch.ones(1, 16, 5)), source=True))
    assert backbone.predict == predict


def test_predictions_per_guided_step() -> None:
    backbone = tiny_unet()
    text = encode_prompt(backbone)
    row = make_condition(backbone, text, source=True)
    scales = {Guidance(1.6, 7.5): 3, Guidance(1, 7.5): 2, Guidance(1, 1): 1, Guidance(2, 2): 2}
    denoiser = Denoiser(backbone, MTU(experts=2), TASKS)
    one = count_step_flops(denoiser, row).total
    for guidance, number in scales.items():
        rows = guide_row(row, text, guidance)
        assert len(rows) == number
        # all but the router, which is computed once a call, is paid for every prediction
        assert count_step_flops(denoiser, rows).total == pytest.approx(number * one, rel=2e-2)


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (TextToImage(), False),
        (Edit(), True),
        (SuperResolution(), True),
        (Inpaint(), True),
        (Inpaint(removal=0), True),
        (Order(), True),
    ],
)
def test_which_tasks_have_a_source(task: Any, expected: bool) -> None:
    assert has_source(task) is expected


# Parameters and disk


class Part(Method):
    """Trains the middle block, or adds one vector per task, or both."""

    def __init__(self, tune: bool, add: int) -> None:
        self.tune, self.add = tune, add

    def adapt(self, backbone: Any, routing: Routing, tasks: Any) -> None:
        if self.tune:
            backbone.denoiser.mid_block.requires_grad_(True)
        if self.add:
            backbone.denoiser.register_parameter("added", nn.Parameter(torch.zeros(len(tasks), self.add)))


@pytest.mark.parametrize(("tune", "add"), [(False, 7), (True, 0), (True, 7)])
@pytest.mark.parametrize("tasks", [1, 2, 3, 4])
def test_parameters_for_all_tasks(tasks: int, tune: bool, add: int) -> None:
    backbone = tiny_unet()
    base = sum(p.numel() for p in backbone.denoiser.parameters())
    middle = sum(p.numel() for p in backbone.denoiser.mid_block.parameters())  # type: ignore[union-attr]
    found = cost.count_parameters(Denoiser(backbone, Part(tune, add), TASKS[:tasks]), 4)
    trained = tune * middle + add * tasks
    runs = {1: 4, 2: 2, 3: 2, 4: 1}[tasks]
    assert found == {
        "trainable": trained,
        "total": base + add * tasks,
        "total_for_all_tasks": base - tune * middle + runs * trained,
    }


def test_single_task_tuning_counts_one_model_per_task() -> None:
    denoiser = Denoiser(tiny_unet(), method("finetune"), TASKS[1:2])
    found = cost.count_parameters(denoiser, 4)
    assert found["total_for_all_tasks"] == 4 * found["total"] == 4 * found["trainable"]


def test_adapters_count_base_and_adapters() -> None:
    backbone = tiny_unet("meta")
    base = sum(p.numel() for p in backbone.denoiser.parameters())
    conv = sum(p.numel() for p in backbone.denoiser.conv_in.parameters())  # type: ignore[union-attr]
    found = cost.count_parameters(Denoiser(backbone, method("lora_ffn"), TASKS[1:2]), 4)
    assert found["total_for_all_tasks"] == base - conv + 4 * found["trainable"]


def test_adapter_on_disk(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    denoiser = Denoiser(tiny_unet(), MTU(experts=2), TASKS)
    save_file({k: v.contiguous() for k, v in denoiser.adapter().items()}, tmp_path / "a.safetensors")
    size = (tmp_path / "a.safetensors").stat().st_size
    assert 0 < size - 1e6 * cost.adapter_mb(denoiser) < 20_000  # the header
    assert cost.adapter_mb(Denoiser(tiny_unet("meta"), MTU(experts=2), TASKS)) == cost.adapter_mb(denoiser)


def test_shipped_is_every_model_that_is_needed() -> None:
    """Full tuning of one task at a time ships four models; LoRA one base and four adapters."""
    size = sum(p.numel() for p in tiny_unet("meta").denoiser.parameters())
    tuned, lora = (Denoiser(tiny_unet("meta"), method(name), TASKS[1:2]) for name in ("finetune", "lora_ffn"))
    one = cost.measure_disk(tuned, size)
    assert one["shipped_float16"] == pytest.approx(4 * one["adapter_float16"], rel=1e-3)
    few = cost.measure_disk(lora, size)
    assert few["base_float16"] < few["shipped_float16"] < few["base_float16"] + 4 * few["adapter_float16"]
    assert few["around_float16"] == one["around_float16"] > 0


# Latency and memory


def test_latency_is_of_the_calls_after_the_warm_up(monkeypatch: Any) -> None:
    now = [0.0]
    durations = iter([9.0, 9.0, 0.001, 0.002, 0.003, 0.004, 0.101])
    monkeypatch.setattr(cost.time, "perf_counter", lambda: now[0])

    def call() -> None:
        now[0] += next(durations)

    found = cost.measure_latency(call, repeats=5, warmup=2)
    assert found["median"] == pytest.approx(3.0)
    assert found["p95"] == pytest.approx(4 + 0.8 * 97)
    assert next(durations, None) is None


def test_resident_memory_follows_an_allocation(monkeypatch: Any) -> None:
    before, peak = cost.read_resident_mb("VmRSS"), cost.read_resident_mb("VmHWM")
    held = torch.ones(32 * 2**20)  # 134 MB, touched
    after = cost.read_resident_mb("VmRSS")
    assert before is not None
    assert after is not None
    assert peak is not None
    assert after - before == pytest.approx(4 * held.numel() / 1e6, abs=40)
    assert before - 1 <= peak
    monkeypatch.setattr(Path, "exists", lambda self: False)
    assert cost.read_resident_mb("VmRSS") is None


@pytest.mark.parametrize(("name", "family"), [*((name, "unet") for name in METHODS), ("mtu", "transformer")])
def test_a_network_of_shapes_is_measured(name: str, family: str) -> None:
    backbone: Any = BACKBONES[family]("meta")  # type: ignore[call-arg]
    denoiser = Denoiser(backbone, method(name), TASKS)
    row = make_condition(backbone, encode_prompt(backbone), source=True, task=1)
    threads = torch.get_num_threads()
    found = cost.measure_call(denoiser, row, cost.Measuring(repeats=2, warmup=0, precision="bfloat16"))
    assert {p.dtype for p in backbone.denoiser.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta for p in backbone.denoiser.parameters())
    assert 0 < found["latency_ms"]["median"] <= found["latency_ms"]["p95"]
    assert found["peak_memory_mb"] >= found["libraries_mb"] > 10
    assert (found["threads"], found["precision"], found["repeats"]) == (threads, "bfloat16", 2)


def test_measuring_says_what_it_cannot_do() -> None:
    for options, expected in (
        ({"repeats": 0}, "repeats=0: expected at least 1"),
        ({"warmup": -1}, "warmup=-1"),
        ({"threads": 0}, "threads=0"),
        ({"device": "tpu"}, "expected one of cpu, cuda"),
    ):
        with pytest.raises(ValueError, match=expected):
            cost.Measuring(**options)  # type: ignore[arg-type]


def test_costs_of_a_run_fit_its_result(tmp_path: Path) -> None:
    denoiser = Denoiser(tiny_unet(), method("one_pic"), TASKS[:2])
    params, found = cost.measure_run(denoiser, 4, [False, True], repeats=2, warmup=1)
    backbone = denoiser.backbone
    dearest = count_step_flops(denoiser, make_condition(backbone, encode_prompt(backbone), source=True, task=1))
    assert (found["flops"], found["flops_no_attn"]) == tuple(dearest.as_dict().values())
    assert found["peak_memory_mb"] is None
    assert params["total_for_all_tasks"] == params["total"] + params["trainable"]
    Result("m", "b", "d", ["edit"], 0, params=dict(params), cost=found).save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json").cost == found
    _, alone = cost.measure_run(denoiser, 4, [False, False], repeats=1, warmup=0)
    assert alone["flops"] < found["flops"] / 1.9


# experiments/cost.py


@pytest.fixture
def script(monkeypatch: Any) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.delitem(sys.modules, "cost", raising=False)
    yield importlib.import_module("cost")
    sys.modules.pop("cost", None)
    sys.modules.pop("run", None)


def test_script_counts_a_true_size(script: Any, tmp_path: Path, capsys: Any) -> None:
    out = tmp_path / "deep" / "cost.json"
    script.main(["backbone=sd15", "method=mtu", f"out={out}"])
    found = json.loads(out.read_text())
    assert (found["backbone"], found["method"], found["text_tokens"]) == ("sd15", "mtu", 77)
    assert found["base"]["parameters"] == 859_520_964
    assert math.isclose(found["base"]["flops"], 0.80327e12, rel_tol=1e-4)
    assert found["params"]["total"] <= 870e6
    assert found["params"]["total_for_all_tasks"] == found["params"]["total"]
    assert found["cost"]["latency_ms"] == {"median": None, "p95": None}
    assert found["measured"] is None
    pictures = {name: (p["predictions"], p["steps"]) for name, p in found["per_picture"].items()}
    expected = {"text_to_image": 2, "edit": 3, "super_resolution": 1, "inpaint": 3}
    assert pictures == {name: (number, 20) for name, number in expected.items()}
    edit = found["per_picture"]["edit"]["flops"] / found["per_step"]["edit"]["flops"]
    assert edit == pytest.approx(60, rel=1e-3)
    assert found["disk_mb"]["base"] == pytest.approx(3438.08, abs=0.01)
    assert found["disk_mb"]["adapter"] == pytest.approx(4e-6 * found["params"]["trainable"], rel=1e-3)
    assert found["disk_mb"]["adapter_float16"] == found["disk_mb"]["adapter"] / 2
    assert found["disk_mb"]["shipped_float16"] == pytest.approx(2e-6 * found["params"]["total"])
    assert found["disk_mb"]["around_float16"] == pytest.approx(2e-6 * (83_653_863 + 123_060_480), rel=1e-6)
    said = capsys.readouterr().out
    assert "859.5M" in said
    assert "0.8033 TFLOPs (0.6772 without attention products)" in said


NANO = ["backbone=nano", "backbone.weights=random", "method=finetune", "tasks=[edit]"]


def test_script_measures_in_a_process_of_its_own(script: Any, tmp_path: Path, capsys: Any) -> None:
    own = ["latency=true", "repeats=2", "warmup=0", "threads=1", f"out={tmp_path / 'c.json'}"]
    script.main([*NANO, *own])
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["params"]["total_for_all_tasks"] == 4 * found["params"]["total"]
    assert list(found["per_step"]) == ["edit"]
    assert 0 < found["cost"]["latency_ms"]["median"] <= found["cost"]["latency_ms"]["p95"]
    measured = found["measured"]
    assert (measured["threads"], measured["repeats"], measured["warmup"]) == (1, 2, 0)
    assert measured["device"].startswith("cpu: ")
    assert found["cost"]["peak_memory_mb"] > measured["libraries_mb"]
    assert "threads: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["backbone=sd51"], "backbone=sd51: expected one of dit, nano, nano_dit, pixart, sd15, sd3, sdxl"),
        (
            ["method=mtv"],
            "method=mtv: expected one of assembled, budgeted, dtr, emma, finetune, ia3, ip_adapter, joint",
        ),
        (["method.expert=4"], "did you mean 'method.experts'"),
        (["method.experts=7"], "do not divide"),
        (["method.experts=0"], "method.experts=0: expected at least 1"),
        (["backbone.architecture={unett: {}}"], "backbone.architecture.unett: expected one of"),
        (["tasks=[draw]"], "tasks=draw: expected one of text_to_image"),
        (["latency=maybe"], "latency=maybe: expected true or false"),
        (["precision=float64"], "expected one of float32, bfloat16"),
        (["threads=two"], "threads=two"),
        (["latency=true", "repeats=0"], "repeats=0: expected at least 1"),
        (["nonsense"], "nonsense: not an override"),
        (["method=mtu,dtr"], "one configuration at a time"),
    ],
)
def test_script_answers_mistakes_in_one_line(script: Any, arguments: list[str], expected: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stopped:
        guard(lambda: script.main(arguments))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert expected in said
