"""Merging: the published rules by formula, what belongs to a task untouched, and whole runs merged by the command."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from method_cases import make, options, shake
from safetensors.torch import load_file
from tiny import inputs, tiny_unet
from torch import Tensor
from whole_runs import SMALL, whole_run

from baselines.trivial import trivial
from mtdiff import load_run
from mtdiff.commands.arguments import list_folders
from mtdiff.commands.merge import merge_runs
from mtdiff.config.schema import construct
from mtdiff.methods.base import CannotMerge
from mtdiff.methods.merging import Rule
from mtdiff.model.denoiser import Denoiser
from mtdiff.runs.merge import make_method, merge_adapters

MERGED = ("finetune", "mtu experts=1", "lora_ffn", "lora_ffn per_task=false")
TASKS = ("denoise", "colorize", "deblur")


def trained(case: str, task: int) -> Denoiser:
    """A model of one task, moved off its start as training would."""
    torch.manual_seed(0)
    denoiser = Denoiser(tiny_unet(), make(case), [TASKS[task]])
    torch.manual_seed(10 + task)
    return shake(denoiser, 0.05)


def merged(case: str, parts: list[Denoiser], rule: Rule) -> Denoiser:
    node = make_method(options(case), len(parts))
    torch.manual_seed(0)
    whole = Denoiser(tiny_unet(), construct(node), TASKS[: len(parts)])
    start = {k: v.clone() for k, v in whole.adapter().items()}
    read: Any = [SimpleNamespace(tensors={k: v.clone() for k, v in p.adapter().items()}) for p in parts]
    merge_adapters(whole, start, read, rule)
    return whole


@torch.no_grad()
def predict(denoiser: Denoiser, task: int) -> Tensor:
    noisy, t, condition = inputs(tiny_unet(), [1, 1])
    return denoiser(noisy, t, condition.__class__(**{**vars(condition), "task": torch.tensor([task, task])}))


@pytest.mark.parametrize("case", MERGED)
@pytest.mark.parametrize("rule", ["average", "task_arithmetic"])
def test_one_adapter_at_scale_1_is_itself_bit_for_bit(case: str, rule: Any) -> None:
    part = trained(case, 0)
    whole = merged(case, [part], Rule(rule))
    own, found = part.adapter(), whole.adapter()
    assert set(own) == set(found)
    assert [k for k in own if not torch.equal(own[k], found[k])] == []
    assert torch.equal(predict(part, 0), predict(whole, 0))


@pytest.mark.parametrize("case", MERGED)
def test_task_arithmetic_adds_what_was_trained(case: str) -> None:
    """By the folded networks: W = W0 + s sum_i (W_i - W0) wherever tasks share a weight."""
    parts = [trained(case, k) for k in range(3)]
    whole = merged(case, parts, Rule("task_arithmetic", scale=0.4))
    base = tiny_unet().denoiser.state_dict()
    folded = []
    for denoiser, task in [*((p, 0) for p in parts), (whole, 1)]:
        denoiser.method.fold(denoiser.backbone, task)
        folded.append(denoiser.backbone.denoiser.state_dict())
    *single, found = folded
    shared = [k for k in base if not k.startswith("conv_in") and ("norm3" not in k or case == "finetune")]
    for name in shared:
        expected = base[name] + 0.4 * sum(s[name] - base[name] for s in single)
        torch.testing.assert_close(found[name], expected, atol=2e-5, rtol=1e-4)
    for name in ("conv_in.weight", "conv_in.bias"):
        assert torch.equal(found[name], single[1][name])  # a task's own


@pytest.mark.parametrize("case", MERGED)
@pytest.mark.parametrize("rule", ["ties", "dare"])
def test_other_rules_differ_and_repeat(case: str, rule: Any) -> None:
    parts = [trained(case, k) for k in range(2)]
    first, again = (predict(merged(case, parts, Rule(rule, 0.5)), 1) for _ in range(2))
    plain = predict(merged(case, parts, Rule("task_arithmetic", 0.5)), 1)
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()
    assert not torch.allclose(first, plain, atol=1e-4)


def test_ties_is_the_papers_example() -> None:
    """Trim to the larger half, elect the sign of the larger sum, average what agrees (arXiv 2306.01708, figure 1)."""
    a, b = torch.tensor([4.0, -1.0, 3.0, 0.1]), torch.tensor([2.0, -5.0, -4.0, 0.2])
    found = Rule("ties", 1.0, 0.5).combine([a, b], "w")
    assert found.tolist() == [4.0, -5.0, -4.0, 0.0]


def test_what_cannot_be_merged_says_so() -> None:
    for case, message in (
        ("mtu", "method.experts=4: routers cannot be merged, expected 1"),
        ("lora_ffn use_dora=true", "method.use_dora=true"),
        ("dtr", "DTR cannot be merged"),
    ):
        with pytest.raises(CannotMerge, match=message):
            make_method(options(case), 2)
    for wrong, message in (
        ({"name": "mean"}, "rule=mean: expected one of average, task_arithmetic, ties, dare"),
        ({"name": "ties", "density": 0.0}, "density=0.0: expected a share above 0"),
        ({"name": "ties", "scale": -1.0}, "scale=-1.0: expected a finite number of at least 0, or validation"),
    ):
        with pytest.raises(ValueError, match=message):
            Rule(**wrong)
    assert list_folders({"runs": "[a,b/c]"}, "runs") == list_folders({"runs": "a,b/c"}, "runs") == ["a", "b/c"]
    with pytest.raises(ValueError, match=r"runs=\{\}: expected folders of runs"):
        list_folders({"runs": "{}"}, "runs")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("parts")
    for task in ("denoise", "colorize"):
        whole_run(root / task, "method=finetune", f"tasks=[{task}]", "method.parts=[ffn]")
    return {task: root / task for task in ("denoise", "colorize")}


def merge(out: Path, *folders: Path, **given: str) -> dict[str, Any]:
    own = {"runs": ",".join(map(str, folders)), "rule": "average", "out": str(out), **given}
    merge_runs(own, [*SMALL], trivial)
    return json.loads((out / "result.json").read_text())


def test_a_merged_run_is_a_run(runs: dict[str, Path], tmp_path: Path) -> None:
    result = merge(tmp_path / "both", runs["denoise"], runs["colorize"], scale="validation")
    assert (result["status"], result["tasks"]) == ("complete", ["denoise", "colorize"])
    assert result["method"] == "finetune_average"
    assert (result["steps"], result["samples_seen"]) == (2, 8)
    assert [p["tasks"] for p in result["parts"]] == [["denoise"], ["colorize"]]
    report = result["method_report"]["merge"]
    assert str(report["scale"]) == min(report["validation"], key=lambda k: report["validation"][k])
    assert {p["weight"] for p in result["parts"]} == {report["scale"] / 2}
    model = load_run(tmp_path / "both")
    (drawn,) = model("colorize", image=torch.zeros(3, 64, 64))
    assert drawn.size == (64, 64)
    assert (tmp_path / "both" / "samples" / "colorize.png").exists()


def test_one_run_merged_is_that_run(runs: dict[str, Path], tmp_path: Path) -> None:
    result = merge(tmp_path / "one", runs["denoise"])
    own, found = (load_file(folder / "adapter.safetensors") for folder in (runs["denoise"], tmp_path / "one"))
    assert [k for k in own if not torch.equal(own[k], found[k])] == []
    rows = json.loads((runs["denoise"] / "result.json").read_text())["rows"]
    assert result["rows"] == rows


def test_runs_that_do_not_belong_together_are_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="its task 'denoise' comes twice, expected a run for each task"):
        merge(tmp_path / "out", runs["denoise"], runs["denoise"])
    about = json.loads((runs["colorize"] / "adapter.json").read_text())
    for change, message in (
        ({"base": "0" * 64}, "was trained on other weights of the base than"),
        ({"method": {**about["method"], "task_embedding": False}}, "has another `method` than"),
        ({"tasks": ["colorize", "deblur"]}, "has the tasks colorize, deblur, expected a run of one task"),
    ):
        other = tmp_path / "other"
        other.mkdir(exist_ok=True)
        about = json.loads((runs["colorize"] / "adapter.json").read_text())
        task = {**about["task"], "deblur": {"_target_": "mtdiff.tasks.deblur.Deblur"}}
        (other / "adapter.json").write_text(json.dumps({**about, "task": task, **change}))
        with pytest.raises(ValueError, match=message):
            merge(tmp_path / "out", runs["denoise"], other)
    with pytest.raises(ValueError, match="expected an empty folder, or none there"):
        merge(runs["denoise"], runs["denoise"])
    assert not (tmp_path / "out").exists()
