"""Assembled networks: what is dropped, the teacher, several kernels; and that without all of it this is fine-tuning."""

import copy
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from run_folders import ABOUT, picture
from safetensors.torch import save_file
from tiny import TASKS, UNET, inputs, tiny_unet
from tiny_families import FAMILIES
from tiny_fits import batch, fit, settings
from torch import Tensor, nn
from whole_runs import whole_run

from baselines.assembled import Assembled
from baselines.cond_conv import MixedConv2d
from baselines.finetune import Finetune
from mtdiff.backbones import stable_diffusion
from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import CannotFold
from mtdiff.methods.routing import Routing
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.inheritance import Inheritance
from mtdiff.model.painter import Painter, first_noise
from mtdiff.runs.adapter import identity, read_about, read_teacher
from mtdiff.runs.export import export_pipeline
from mtdiff.runs.load import build_teacher, load_run
from mtdiff.runs.model import Model
from mtdiff.tasks.edit import Edit
from mtdiff.tasks.text_to_image import TextToImage
from mtdiff.training.module import MultiTaskModule

MIXED = [2, 0, 3, 1, 0]
DISTIL = {"task": 1.0, "output": 1.0, "feature": 1.0}
LIGHTER = {"_target_": "baselines.assembled.Assembled", "drop": ["middle"]}
TWO_LAYERS = {**UNET, "layers_per_block": 2}


def make(base: Backbone, **options: Any) -> Denoiser:
    torch.manual_seed(1)
    return Denoiser(base, Assembled(**options), TASKS)


@torch.no_grad()
def shake(denoiser: Denoiser, size: float = 0.05) -> Denoiser:
    for p in denoiser.trained_parameters().values():
        p.add_(size * torch.randn(p.shape))
    return denoiser


@torch.no_grad()
def run(denoiser: Denoiser, task: list[int] = MIXED) -> Tensor:
    return denoiser(*inputs(denoiser.backbone, task))


def test_without_options_it_is_fine_tuning(tmp_path: Path) -> None:
    """Bit for bit: start, names, and the weights after some steps of training."""
    trained = []
    for method in (Finetune(), Assembled()):
        torch.manual_seed(1)
        module = MultiTaskModule(Denoiser(tiny_unet(), method, TASKS), settings())
        method.teach(module.denoiser.backbone, tiny_unet)
        fit(module, tmp_path, 3, [])
        trained.append(module.denoiser.backbone.denoiser.state_dict())
    assert list(trained[0]) == list(trained[1])
    assert all(torch.equal(a, b) for a, b in zip(trained[0].values(), trained[1].values(), strict=True))


def drops() -> list[tuple[str, tuple[str, ...]]]:
    every = [(family, (name,)) for family in FAMILIES for name in FAMILIES[family]().drops()]
    return [*every, ("unet", ("middle", "attention.0")), ("layers", ("attention.0", "layer.1", "layer.0", "middle"))]


@pytest.mark.parametrize(("family", "names"), drops())
def test_what_is_left_is_a_plain_network(family: str, names: tuple[str, ...], tmp_path: Path) -> None:
    base = tiny_unet(unet=TWO_LAYERS) if family == "layers" else FAMILIES[family]()
    size = sum(p.numel() for p in base.denoiser.parameters())
    denoiser = shake(make(base, drop=names))
    assert sum(p.numel() for p in denoiser.backbone.denoiser.parameters()) < size + 2500  # the tasks' own input layers
    noisy, t, condition = inputs(denoiser.backbone, [3, 3])
    with torch.no_grad():
        expected = denoiser(noisy, t, condition)
    assert torch.isfinite(expected).all()
    folded: Any = copy.deepcopy(denoiser.backbone)
    denoiser.method.fold(folded, 3)
    folded.denoiser.save_pretrained(tmp_path)
    folded.denoiser = type(folded.denoiser).from_pretrained(tmp_path)
    assert type(folded.denoiser).__module__.startswith("diffusers.")
    with torch.no_grad():
        found = denoiser.method.layout(folded.predict, noisy, t, condition)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_dropped_network_inherits_features_too() -> None:
    rule = {"every": 2, "start": None, "until": 0, "spacing": "uniform", "units": ("ffn",)}
    for level in ("block", "layer"):
        inherit = Inheritance(level=level, **rule)  # type: ignore[arg-type]
        denoiser = make(tiny_unet(), drop=["attention.0", "middle"])
        painter = Painter(denoiser=denoiser, guidance={}, sampler="ddim", steps=4, inherit=inherit)
        noise = first_noise(batch(), denoiser.backbone.latent_shape, 0)
        assert torch.isfinite(painter.draw(batch(), noise)).all()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"drop": ["attention.7"]}, r"method.drop=attention.7: expected one of attention.0, middle"),
    ({"drop": ["middle", "middle"]}, r"method.drop=\['middle', 'middle'\]: expected each part once"),
    ({"distil": {"outputs": 1}}, r"method.distil=outputs: expected one of task, output, feature"),
    ({"distil": {"task": -1.0}}, r"method.distil.task=-1.0: expected a finite number of at least 0"),
    ({"distil": {"task": 0}}, r"method.distil={'task': 0}: expected a weight above 0, or null"),
    ({"kernels": 0}, r"method.kernels=0: expected at least 1"),
    ({"route": "time"}, r"method.route='time': expected one of task, task_time, features"),
]


@pytest.mark.parametrize(("options", "line"), WRONG)
def test_mistakes_get_one_line(options: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=rf"^{line}$"):
        make(tiny_unet("meta"), **options)


def test_a_transformer_has_blocks_to_drop_and_no_kernels() -> None:
    with pytest.raises(ValueError, match=r"^method.kernels=2: expected 1, this base has no residual convolutions$"):
        make(FAMILIES["transformer"]("meta"), kernels=2)
    with pytest.raises(ValueError, match=r"^method.drop: names every block, expected at least one to stay$"):
        make(FAMILIES["transformer"]("meta"), drop=["block.0", "block.1"])


# The teacher


def taught(base: Any = tiny_unet, **options: Any) -> MultiTaskModule:
    denoiser = make(base(), distil=DISTIL, **options)
    denoiser.method.teach(denoiser.backbone, base)
    return MultiTaskModule(denoiser, settings())


def extra(module: MultiTaskModule) -> dict[str, Tensor]:
    noisy, t, condition = inputs(module.denoiser.backbone, MIXED)
    module.denoiser.errors(noisy, t, condition, noisy)
    return dict(module.denoiser.extra_errors(noisy, t, condition))


@pytest.mark.parametrize("family", ["unet", "transformer", "joint", "label"])
def test_an_untrained_whole_student_has_nothing_to_learn(family: str) -> None:
    module = taught(FAMILIES[family])
    found = extra(module)
    assert set(found) == {"distil/output", "distil/feature"}
    assert all(term.shape == (len(MIXED),) and term.max() < 1e-9 for term in found.values())
    shake(module.denoiser)
    assert all(term.min() > 1e-6 for term in extra(module).values())


@pytest.mark.parametrize(("family", "part"), [("unet", "middle"), ("unet", "attention.0"), ("transformer", "block.0")])
def test_a_lighter_student_is_compared_stage_by_stage(family: str, part: str) -> None:
    """Against both networks run by hand, with hooks of this test's own on the stages that both have."""
    module = taught(FAMILIES[family], drop=[part])
    base, student = FAMILIES[family](), module.denoiser.backbone
    own, others = list(student.stages()), list(base.stages())
    pairs = [(n, n) for n in own] if family == "unet" else [("transformer_blocks.0", "transformer_blocks.1")]
    assert len(own) == len(others) - (part != "attention.0")
    seen: dict[tuple[str, str], Tensor] = {}
    for side, backbone in (("student", student), ("base", base)):
        for name, stage in backbone.stages().items():

            def keep(module: Any, args: Any, out: Any, key: tuple[str, str] = (side, name)) -> None:
                seen[key] = out if isinstance(out, Tensor) else out[0]

            stage.register_forward_hook(keep)
    found = extra(module)
    noisy, t, condition = inputs(student, MIXED)
    with torch.no_grad():
        teacher, prediction = base.predict(noisy, t, condition), module.denoiser(noisy, t, condition)
    torch.testing.assert_close(found["distil/output"], (prediction - teacher).square().mean((1, 2, 3)))
    errors = [(seen["student", a] - seen["base", b]).square().flatten(1).mean(1) for a, b in pairs]
    torch.testing.assert_close(found["distil/feature"].detach(), torch.stack(errors).mean(0).detach())


def test_the_teacher_stays_and_stays_outside(tmp_path: Path) -> None:
    module = taught(drop=["middle"])
    method = module.denoiser.method
    assert isinstance(method, Assembled)
    assert method._teacher is not None
    network = method._teacher.base.denoiser
    inside = {id(p) for p in module.parameters()}
    assert not inside & {id(p) for p in network.parameters()}
    assert sum(p.numel() for p in module.denoiser.backbone.denoiser.parameters()) > 0
    before = {k: v.clone() for k, v in network.state_dict().items()}
    start = {k: v.clone() for k, v in module.denoiser.adapter().items()}
    trainer = fit(module, tmp_path, 2, [])
    assert {"train/distil/output", "train/distil/feature"} <= set(trainer.logged_metrics)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
    assert not any(torch.equal(v, start[k]) for k, v in module.denoiser.adapter().items() if "conv" in k)
    copied = copy.deepcopy(module.denoiser)
    assert torch.equal(run(copied), run(module.denoiser))


def test_terms_are_weighed_and_normalised() -> None:
    plain = taught(drop=["middle"])
    weighed = make(tiny_unet(), drop=["middle"], distil={"feature": 3.0}, normalise=True)
    weighed.method.teach(weighed.backbone, tiny_unet)
    other = MultiTaskModule(weighed, settings())
    found = extra(other)
    assert set(found) == {"distil/feature"}
    assert weighed.method.error_weight == 0
    assert not torch.allclose(found["distil/feature"], 3 * extra(plain)["distil/feature"], rtol=0.01)
    module = taught()
    assert isinstance(module.denoiser.method, Assembled)
    module.log = lambda *args, **options: None  # type: ignore[method-assign, assignment]
    total = module.add_extra(torch.ones(2), {"a": torch.full((2,), 3.0)})
    assert total.tolist() == [4.0, 4.0]


def other_run(tasks: list[str], seed: int = 3) -> Denoiser:
    """What a finished run of fine-tuning left, with tasks in an order of its own."""
    torch.manual_seed(seed)
    return shake(Denoiser(tiny_unet(), Finetune(), tasks))


def save_other(folder: Path, denoiser: Denoiser, **changed: Any) -> Path:
    """A run folder of such a network."""
    about = {**ABOUT, "method": {"_target_": "baselines.finetune.Finetune"}, "tasks": list(denoiser.tasks), **changed}
    folder.mkdir()
    (folder / "adapter.json").write_text(json.dumps(about))
    tensors = {k: v.contiguous() for k, v in denoiser.adapter().items()}
    save_file(tensors, folder / "adapter.safetensors", metadata={"about": identity(about)})
    return folder


def test_a_run_teaches_the_tasks_that_it_has_learnt(tmp_path: Path) -> None:
    """Its prediction is asked for with its own numbers of the tasks; it stays as it was, and outside."""
    teacher = other_run(list(reversed(TASKS)))
    about = read_about(save_other(tmp_path / "run", teacher))
    student = shake(make(tiny_unet(), drop=["middle"], distil={"output": 1.0}, teacher="run"))
    student.method.teach(student.backbone, tiny_unet, lambda: build_teacher(about, tiny_unet(), TASKS))
    noisy, t, condition = inputs(student.backbone, MIXED)
    with torch.no_grad():
        own = student(noisy, t, condition)
        taught_by = teacher(noisy, t, replace(condition, task=len(TASKS) - 1 - condition.task))
        found = student.extra_errors(noisy, t, condition)
    torch.testing.assert_close(found["distil/output"], (own - taught_by).square().mean((1, 2, 3)))
    method = student.method
    assert isinstance(method, Assembled)
    assert method._teacher is not None
    inside = {id(p) for p in student.parameters()}
    assert not inside & {id(p) for p in method._teacher.base.parameters()}
    assert not any(p.requires_grad for p in method._teacher.base.parameters())


def test_a_teacher_that_does_not_fit_gets_one_line(tmp_path: Path) -> None:
    plain = {
        "method": {"teacher": str(tmp_path / "run")},
        "packages": [],
        **{k: ABOUT[k] for k in ("backbone", "tasks")},
    }
    with pytest.raises(ValueError, match=r"\Amethod.teacher=[^\n]*: no such folder, nor a shipped adapter [^\n]*\Z"):
        read_teacher(plain)
    run = save_other(tmp_path / "run", other_run(TASKS[:2]), base="0" * 64)
    with pytest.raises(
        ValueError, match=rf"\Amethod.teacher=[^\n]*: was not trained for {TASKS[2]}, expected [^\n]*\Z"
    ):
        read_teacher(plain)
    with pytest.raises(ValueError, match=r"\Amethod.teacher=[^\n]*: is on another base; expected [^\n]*\Z"):
        read_teacher({**plain, "backbone": {**ABOUT["backbone"], "size": 24}})
    with pytest.raises(ValueError, match=r"\Amethod.teacher=3: expected the folder of a run, or null\Z"):
        read_teacher({**plain, "method": {"teacher": 3}})
    with pytest.raises(
        ValueError, match=r"\A[^\n]*: was trained on the base [^\n]* with weights 000000000000, [^\n]*\Z"
    ):
        build_teacher(read_about(run), tiny_unet(), TASKS[:2])
    about = read_about(save_other(tmp_path / "lighter", make(tiny_unet(), drop=["middle"]), method=LIGHTER))
    student = make(tiny_unet(), distil={"feature": 1.0}, teacher="lighter")
    with pytest.raises(
        ValueError, match=r"\Amethod.teacher: is without mid_block, expected a run that has every [^\n]*\Z"
    ):
        student.method.teach(student.backbone, tiny_unet, lambda: build_teacher(about, tiny_unet(), TASKS))
    with pytest.raises(
        ValueError, match=r"\Amethod.teacher=x: expected null without method.distil.output or .feature\Z"
    ):
        Assembled(distil={"task": 1.0}, teacher="x")


def test_a_taught_run_is_whole_without_its_teacher(tmp_path: Path) -> None:
    """From end to end: the result names the run that taught, and what is left loads and draws when that one is gone."""
    whole_run(tmp_path / "full", "method=finetune", "tasks=[edit]")
    taught = ["method=assembled", "method.drop=[middle]", "method.distil={task: 1, output: 1, feature: 1}"]
    found = whole_run(tmp_path / "small", *taught, f"method.teacher={tmp_path}/full", "tasks=[edit]")
    digest = hashlib.sha256((tmp_path / "full" / "adapter.safetensors").read_bytes()).hexdigest()
    assert found["status"] == "complete"
    assert found["method_report"]["teacher"] == {"run": "full", "adapter": digest}
    assert "teacher" not in json.loads((tmp_path / "small" / "adapter.json").read_text())["method"]
    shutil.rmtree(tmp_path / "full")
    (drawn,) = load_run(tmp_path / "small")("edit", prompt="make it blue", image=picture())
    assert drawn.size == (64, 64)


# A random start


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_random_start_keeps_the_shape_alone(family: str) -> None:
    drops = list(FAMILIES[family]().drops())[-1:]
    plain, drawn = (make(FAMILIES[family](), drop=drops, start=start) for start in ("base", "random"))
    before, after = plain.backbone.denoiser.state_dict(), drawn.backbone.denoiser.state_dict()
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    moved = [k for k, v in before.items() if v.dim() > 1 and v.any() and not torch.equal(v, after[k])]
    assert len(moved) > 0.8 * sum(v.dim() > 1 and bool(v.any()) for v in before.values())
    again = make(FAMILIES[family](), drop=drops, start="random").backbone.denoiser.state_dict()
    assert all(torch.equal(v, again[k]) for k, v in after.items())
    assert not drawn.method.equals_base
    assert make(FAMILIES[family]("meta"), drop=drops, start="random").device.type == "meta"


# Several kernels


@pytest.mark.parametrize("route", ["task", "task_time", "features"])
def test_kernels_start_as_the_convolution_and_part_in_training(route: str) -> None:
    denoiser = make(tiny_unet(), kernels=3, route=route)
    expected = run(make(tiny_unet()))
    torch.testing.assert_close(run(denoiser), expected, atol=1e-6, rtol=1e-5)
    denoiser.train()
    trained = denoiser.trained_parameters()
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    for seed in range(2):
        denoiser.zero_grad()
        denoiser(*inputs(denoiser.backbone, MIXED, seed)).square().mean().backward()
        optimizer.step()
    assert [k for k, p in trained.items() if p.grad is None or not p.grad.any()] == []
    layers = [m for m in denoiser.backbone.denoiser.modules() if isinstance(m, MixedConv2d)]
    assert len(layers) == len(denoiser.backbone.convolutions()) == 2 * 8
    assert not any(torch.equal(m.kernels[0], m.kernels[1]) for m in layers)


@pytest.mark.parametrize("route", ["task", "task_time", "features"])
def test_samples_have_kernels_of_their_own(route: str) -> None:
    denoiser, order = shake(make(tiny_unet(), kernels=2, route=route)), torch.tensor([3, 1, 4, 0, 2])
    noisy, t, condition = inputs(denoiser.backbone, MIXED)
    with torch.no_grad():
        out = denoiser(noisy, t, condition)
        torch.testing.assert_close(denoiser(noisy[order], t[order], condition[order]), out[order], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(denoiser(noisy[:1], t[:1], condition[:1]), out[:1], atol=1e-5, rtol=1e-5)


def test_kernels_fold_for_a_task() -> None:
    denoiser = shake(make(tiny_unet(), kernels=3, drop=["attention.0"]))
    for task in (0, 3):
        folded: Any = copy.deepcopy(denoiser.backbone)
        denoiser.method.fold(folded, task)
        assert not any(isinstance(m, MixedConv2d) for m in folded.denoiser.modules())
        noisy, t, condition = inputs(denoiser.backbone, [task] * 3)
        with torch.no_grad():
            expected = denoiser(noisy, t, condition)
            found = denoiser.method.layout(folded.predict, noisy, t, condition)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for route in ("task_time", "features"):
        other = make(tiny_unet("meta"), kernels=2, route=route)
        with pytest.raises(CannotFold, match=rf"^method.route={route}: [^\n]+$"):
            other.method.fold(other.backbone, 0)


def test_a_kernel_folds_for_a_pair_of_task_and_time() -> None:
    torch.manual_seed(0)
    routing = Routing()
    layer = MixedConv2d(nn.Conv2d(4, 6, 3, 2, 1), 3, 2, "task_time", routing)
    with torch.no_grad():
        layer.kernels.add_(torch.randn_like(layer.kernels))
    x, task, t = torch.randn(3, 4, 8, 8), torch.tensor([1, 0, 1]), torch.tensor([900, 20, 20])
    routing.write(task, t)
    one_by_one = [layer.fold(int(k), float(s))(x[i : i + 1]) for i, (k, s) in enumerate(zip(task, t, strict=True))]
    torch.testing.assert_close(layer(x), torch.cat(one_by_one), atol=1e-5, rtol=1e-5)
    with pytest.raises(CannotFold):
        layer.fold(0)


def test_an_export_draws_with_diffusers_alone(tmp_path: Path) -> None:
    """A lighter network of the shipped base, with kernels to fold, against the pipeline read from the folder."""
    tasks: dict[str, Any] = {"text_to_image": TextToImage(), "edit": Edit()}
    torch.manual_seed(0)
    method = Assembled(drop=["attention.0", "middle"], kernels=2)
    denoiser = shake(Denoiser(stable_diffusion.load(), method, list(tasks)), 0.01)
    model = Model(Painter(denoiser=denoiser, guidance={}, sampler="ddim", steps=3), tasks)
    (ours,) = model("text_to_image", "noto, robot face")
    noise = first_noise(batch_of_request(), denoiser.backbone.latent_shape, 0)
    assert export_pipeline(model, "text_to_image", tmp_path / "out") == "StableDiffusionPipeline"
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "out", torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.unet.mid_block is None
    options = {"latents": noise, "num_inference_steps": 3, "output_type": "np", "guidance_scale": 1.0}
    theirs = pipeline("noto, robot face", **options).images[0]
    assert np.abs(np.asarray(ours) / 255 - theirs).max() <= 1 / 255


def batch_of_request() -> Any:
    one = batch(1)
    return type(one)(**{**vars(one), "key": ["request 0"]})
