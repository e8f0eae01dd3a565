"""Weights over time, PCGrad against its published loop, and each balancing in a real training step."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from method_cases import NAMES, make
from tiny import TASKS, tiny_unet
from tiny_fits import batch, fit, settings
from torch import Tensor, nn

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.config.schema import construct
from mtdiff.methods.mtu import MTU
from mtdiff.model.denoiser import Denoiser
from mtdiff.rng import numpy_rng, torch_rng
from mtdiff.training.balancing import (
    Balancing,
    MinSNR,
    Uncertainty,
    Uniform,
    backward_without_conflicts,
    cosine_matrix,
    gram_matrix,
    list_grams,
    measure_layers,
    name_layer,
    project_conflicts,
)
from mtdiff.training.module import MultiTaskModule, sum_per_task

FILES = sorted((Path(__file__).parents[2] / "experiments" / "configs" / "balancing").glob("*.yaml"))
SCHEDULERS = {
    "epsilon": DDIMScheduler(),
    "v_prediction": DDIMScheduler(prediction_type="v_prediction"),
    "flow": FlowMatchEulerDiscreteScheduler(),
}


def module(balancing: Balancing, method: Any = None, **how: Any) -> MultiTaskModule:
    torch.manual_seed(0)
    backbone = tiny_unet()
    if how.pop("checkpointing", False):
        backbone.enable_gradient_checkpointing()
    denoiser = Denoiser(backbone, method or MTU(experts=2), TASKS)
    return MultiTaskModule(denoiser, settings(), balancing=balancing, **how)


def test_time_shift_is_of_training_alone() -> None:
    """The same draws otherwise; what validates stays uniform, so that runs can be compared."""
    plain, shifted = module(Balancing(Uniform())), module(Balancing(Uniform(), time_shift=3.0))
    four = batch()
    assert torch.equal(plain.training_errors(four)[1], plain.errors(four)[1])
    assert torch.equal(shifted.errors(four)[1], plain.errors(four)[1])
    uniform, noisier = plain.training_errors(four)[1], shifted.training_errors(four)[1]
    assert noisier.tolist() == [shifted.diffusion.times(1, after_noise(seed), 3.0).item() for seed in four.seed]
    assert not torch.equal(noisier, uniform)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"balancing.time_shift={wrong}: expected a positive, finite number"):
            Balancing(Uniform(), time_shift=wrong)


def after_noise(seed: int) -> torch.Generator:
    """A generator of an example's draws, whose noise has been drawn."""
    generator = torch_rng(seed, "draws")
    torch.randn(tiny_unet().latent_shape, generator=generator)
    return generator


@pytest.mark.parametrize("name", SCHEDULERS)
def test_min_snr_caps_the_error_of_the_clean_latent(name: str) -> None:
    diffusion = Diffusion(SCHEDULERS[name])
    t = torch.tensor([1, 100, 500, 900])
    clean, noise, error = torch.randn(3, 4, 2, 4, 4, dtype=torch.float64)
    prediction = diffusion.target(clean, noise, t) + error
    signal, level = diffusion.coefficients(t)
    x = diffusion.noisy(clean, noise, t)
    implied = {
        "epsilon": (x - level * prediction) / signal,
        "v_prediction": signal * x - level * prediction,
        "flow": x - level * prediction,
    }[name]
    clean_error = (implied - clean).pow(2).mean((1, 2, 3))
    losses = error.pow(2).mean((1, 2, 3))
    expected = torch.minimum((signal / level).flatten() ** 2, torch.tensor(5.0)) * clean_error
    torch.testing.assert_close(MinSNR(5.0)(losses, t, diffusion), expected, rtol=1e-5, atol=1e-9)


def test_uncertainty_learns_the_logarithm_of_each_clusters_error() -> None:
    weighting, diffusion = Uncertainty(4, lr=0.05), Diffusion(SCHEDULERS["epsilon"])
    t = torch.tensor([0, 249, 250, 500, 999])
    losses = torch.tensor([0.5, 0.5, 0.25, 2.0, 4.0])
    optimizer = torch.optim.Adam(weighting.parameters(), lr=weighting.lr)
    for _ in range(300):
        optimizer.zero_grad()
        weighting(losses, t, diffusion).sum().backward()
        optimizer.step()
    torch.testing.assert_close(weighting.s.detach(), torch.tensor([0.5, 0.25, 2.0, 4.0]).log(), atol=0.02, rtol=0)


def published(rows: Tensor, key: tuple[int | str, ...]) -> Tensor:
    """Algorithm 1 of PCGrad on vectors (T, P), with our order of the others."""
    rng, total = numpy_rng(*key), torch.zeros_like(rows[0])
    for i in range(len(rows)):
        g = rows[i].clone()
        for j in rng.permutation([j for j in range(len(rows)) if j != i]).tolist():
            if g @ rows[j] < 0:
                g -= (g @ rows[j]) / (rows[j] @ rows[j]) * rows[j]
        total += g
    return total


@pytest.mark.parametrize("tasks", [2, 3, 5])
def test_pcgrad_equals_the_published_loop(tasks: int) -> None:
    for seed in range(20):
        rows = torch.randn(tasks, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        weights = project_conflicts(gram_matrix([[r] for r in rows]), (seed,))
        torch.testing.assert_close(weights @ rows, published(rows, (seed,)))


def test_pcgrad_without_conflict_is_the_sum() -> None:
    assert project_conflicts(torch.eye(3).double() + 0.1, (0,)).tolist() == [1, 1, 1]


def test_cosines_of_tasks_that_reach_different_parameters() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    gram = gram_matrix([[a, b], [a, None], [None, None]])
    assert gram.tolist() == [[25, 9, 0], [9, 9, 0], [0, 0, 0]]
    assert cosine_matrix(gram)[0, 1].item() == pytest.approx(0.6)
    assert cosine_matrix(gram)[2, 0].isnan()


def test_cosines_by_layer() -> None:
    """Layers gather their parameters; what one task alone reaches has no cosine."""
    network, layer = "denoiser.backbone.denoiser", "down_blocks.0.attentions.1.transformer_blocks.0.ff"
    names = [f"{network}.{layer}.net.{part}" for part in ("0.weight", "2.bias")]
    names += [f"{network}.conv_in.weight", "balancing.s"]
    assert [name_layer(name) for name in names] == [layer, layer, "conv_in", "balancing"]
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    found = measure_layers(names, list_grams([[a, b, -a, a], [a, None, a, None]]))
    assert list(found) == [layer, "conv_in"]
    assert list(found.values()) == pytest.approx([0.6, -1.0])


def test_backward_without_conflicts_on_a_network() -> None:
    """Scale of accumulation kept, gradients added to what is there, parameters of one task alone served."""
    torch.manual_seed(0)
    shared, own = nn.Linear(3, 2), nn.Linear(2, 1)
    x, y = torch.randn(2, 8, 3), torch.randn(2, 8, 2)
    means = torch.stack([(shared(x[0]) - y[0]).pow(2).mean() + own(shared(x[0])).mean(), -shared(x[1]).sum() / 9])
    parameters = [*shared.parameters(), *own.parameters()]
    rows = [torch.autograd.grad(m / 4, parameters, retain_graph=True, allow_unused=True) for m in means]
    flat = torch.stack(
        [
            torch.cat(
                [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(r, parameters, strict=True)]
            )
            for r in rows
        ]
    )
    for p in parameters:
        p.grad = torch.ones_like(p)
    gram, grams = backward_without_conflicts(means.sum() / 4, means, parameters, ("k",))
    torch.testing.assert_close(sum(grams), gram)
    torch.testing.assert_close(gram, (flat @ flat.T).double(), rtol=1e-5, atol=1e-7)
    found = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    torch.testing.assert_close(found - 1, published(flat, ("k",)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
@pytest.mark.parametrize("case", NAMES)
def test_each_balancing_trains_each_method(path: Path, case: str, tmp_path: Path) -> None:
    made = module(construct(yaml.safe_load(path.read_text())), make(case))
    before = {k: p.detach().clone() for k, p in made.named_parameters() if p.requires_grad}
    fit(made, tmp_path, 1, [])
    changed = [k for k, p in made.named_parameters() if p.requires_grad and not torch.equal(p, before[k])]
    assert any(k.startswith("denoiser") for k in changed)
    assert ("balancing.weighting.s" in changed) == (path.stem == "uncertainty")


def test_pcgrad_is_the_same_under_gradient_checkpointing(tmp_path: Path) -> None:
    ends = []
    for checkpointing in (False, True):
        made = module(Balancing(Uniform(), pcgrad=True), checkpointing=checkpointing)
        fit(made, tmp_path, 2, [])
        ends.append(made.denoiser.adapter())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-4, atol=1e-6)


def test_learned_uncertainties_are_in_the_checkpoint(tmp_path: Path) -> None:
    made = module(Balancing(Uncertainty()))
    trainer = fit(made, tmp_path, 2, [])
    trainer.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    again = module(Balancing(Uncertainty()))
    again.load_state_dict(torch.load(tmp_path / "a.ckpt", weights_only=True)["state_dict"], strict=False)
    assert torch.equal(again.balancing.weighting.s, made.balancing.weighting.s)  # type: ignore[arg-type]
    assert made.balancing.weighting.s.abs().sum() > 0  # type: ignore[operator]


def test_factor_of_a_task_scales_its_gradient_alone() -> None:
    made = module(Balancing(Uniform(), {"edit": 0.0, "inpaint": 2.0}))
    assert made.factors.tolist() == [{"edit": 0.0, "inpaint": 2.0}.get(t, 1.0) for t in TASKS]  # type: ignore[operator, union-attr]
    errors, _ = made.errors(batch())
    assert errors.shape == (4,)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MinSNR(0), "balancing.weighting.gamma=0"),
        (lambda: Uncertainty(0), "balancing.weighting.clusters=0"),
        (lambda: Uncertainty(8, 0), "balancing.weighting.lr=0"),
        (lambda: Balancing(Uniform(), {"edit": -1}), "balancing.weights.edit=-1"),
        (lambda: module(Balancing(Uniform(), {"edits": 1})), "balancing.weights.edits: expected one of"),
    ],
)
def test_refusals_name_the_key(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_batch_may_lack_tasks(path: Path) -> None:
    """What is there gets the gradient that it has alone; tasks that are not there get none, and no number breaks."""
    node = {k: v for k, v in yaml.safe_load(path.read_text()).items() if not k.startswith("#")}
    made = module(construct(node.get("balancing", node)))
    some = batch(8).rows(torch.tensor([False, True, True, False] * 2))  # edit and super-resolution
    errors, t = made.training_errors(some)
    weighted = made.balancing.weighting(errors, t, made.diffusion)
    means = sum_per_task(weighted, some.task, 4) / torch.tensor([1.0, 2.0, 2.0, 1.0])
    parameters = [p for p in made.denoiser.parameters() if p.requires_grad]
    if made.balancing.pcgrad:
        gram, _ = backward_without_conflicts(means.sum(), means, parameters, ("key",))
        assert gram.diagonal().tolist()[0] == gram.diagonal().tolist()[3] == 0
    else:
        means.sum().backward()
    found = [p.grad for p in parameters if p.grad is not None]
    assert found
    assert all(torch.isfinite(g).all() for g in found)
    for p in made.denoiser.method.task_parameters(made.denoiser.backbone):
        assert p.grad is None or not p.grad[[0, 3]].any()
