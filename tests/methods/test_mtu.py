"""MTU's experts against a plain loop over them, its gates, widths and counts."""

import copy
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from tiny import BACKBONES, TASKS, inputs, sd15_shapes
from tiny_fits import settings
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import mtdiff.methods.experts as experts_of
from mtdiff.backbones.base import Backbone
from mtdiff.methods.experts import ExpertInput, Experts
from mtdiff.methods.geglu_loop import GegluLoop
from mtdiff.methods.mtu import MTU
from mtdiff.methods.routing import Routing
from mtdiff.model.denoiser import Denoiser
from mtdiff.training.module import MultiTaskModule

WIDTH = 16  # 64 hidden units
TASK, TIME = torch.tensor([2, 0, 3, 2]), torch.tensor([10, 500, 999, 0])


def feed_forward(activation: str = "geglu", seed: int = 0) -> FeedForward:
    torch.manual_seed(seed)
    return FeedForward(WIDTH, activation_fn=activation)


def upcycled(ff: nn.Module, shaken: float = 0.0, **options: Any) -> Experts:
    """Experts for four tasks under a routing that holds TASK and TIME."""
    torch.manual_seed(1)
    method, routing = MTU(**options), Routing()
    routing.write(TASK, TIME)
    embedding = nn.Embedding(4, method.embedding_width)
    experts = Experts(copy.deepcopy(ff), "block.ff", method.options, routing, embedding)
    with torch.no_grad():
        for p in experts.parameters():
            p.add_(shaken * torch.randn(p.shape))
    return experts


def loop(experts: Experts, x: Tensor, w: Tensor) -> Tensor:
    """sum_i w_i (scale * out_i(act(in_i(x))) + b_i), one expert after the other. x (B, L, C), w (B, N)."""
    projection, out, total = experts.net[0].proj, experts.output.weight, torch.zeros_like(x)
    units = experts.each * experts.experts
    gated = len(projection.weight) == 2 * units
    for i in range(experts.experts):
        mine, seen = slice(i * experts.each, (i + 1) * experts.each), x
        if isinstance(projection, ExpertInput):
            seen = x * projection.gain[TASK, i][:, None] + projection.shift[TASK, i][:, None]
        h = seen @ projection.weight[:units][mine].T + projection.bias[:units][mine]
        if gated:
            gate = seen @ projection.weight[units:][mine].T + projection.bias[units:][mine]
            h = h * nn.functional.gelu(gate)
        else:
            h = nn.functional.gelu(h)
        y = experts.scale * h @ out[:, mine].T + experts.bias[i]
        total = total + w[:, i, None, None] * y
    return total


@pytest.mark.parametrize("activation", ["geglu", "gelu"])
@pytest.mark.parametrize(
    "options",
    [
        {"experts": 4},
        {"experts": 1},
        {"experts": 1, "per_expert_norm": True},
        {"experts": 2, "granularity": 1.0},
        {"experts": 2, "granularity": 2.0},
        {"experts": 4, "granularity": 0.125},
        {"experts": 8, "top_k": 3},
        {"experts": 4, "rescale": False},
        {"experts": 4, "per_expert_norm": True},
        {"experts": 4, "router_input": "task_timestep"},
        {"experts": 16},
    ],
)
@pytest.mark.parametrize("tokens", [5, 40])  # fewer and more than twice the width
def test_fused_experts_equal_a_plain_loop(options: dict[str, Any], activation: str, tokens: int) -> None:
    experts = upcycled(feed_forward(activation), shaken=0.3, **options)
    x = torch.randn(4, tokens, WIDTH)
    torch.testing.assert_close(experts(x), loop(experts, x, experts.gates(TASK, TIME)), atol=1e-5, rtol=1e-5)
    (embedding,) = experts._embedding
    x, experts, embedding = x.double().requires_grad_(True), experts.double(), embedding.double()
    leaves = [x, *experts.parameters(), embedding.weight]
    fused, plain = experts(x), loop(experts, x, experts.gates(TASK, TIME))
    weight = torch.randn_like(x)
    pairs = zip(
        *(torch.autograd.grad((y * weight).sum(), leaves, allow_unused=True) for y in (fused, plain)), strict=True
    )
    for a, b in pairs:
        assert (a is None) == (b is None) or not (a if b is None else b).any()
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


LARGE_WAYS = [(40, "geglu", {}, "by_expert"), (80, "geglu", {}, "by_sample"), (40, "gelu", {}, "by_sample")]
LARGE_WAYS += [(5, "gelu", {}, "at_once"), (5, "geglu", {"per_expert_norm": True}, "at_once")]


@pytest.mark.parametrize(("tokens", "activation", "options", "way"), LARGE_WAYS)
@pytest.mark.parametrize("top_k", [None, 3])
def test_large_samples_on_a_cpu(
    tokens: int, activation: str, options: dict[str, Any], way: str, top_k: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each way equals the loop, in values and gradients, with and without checkpointing; large begins at nothing."""
    monkeypatch.setattr(experts_of, "LARGE", 0)
    layer = upcycled(feed_forward(activation), shaken=0.3, experts=4, top_k=top_k, **options).double()
    (embedding,) = layer._embedding
    embedding.double()
    x = torch.randn(4, tokens, WIDTH, dtype=torch.float64, requires_grad=True)
    assert layer.way(x) == way
    leaves, back = [x, *layer.parameters(), embedding.weight], torch.randn_like(x)
    results = [layer(x), checkpoint(layer, x, use_reentrant=False), loop(layer, x, layer.gates(TASK, TIME))]
    *ours, plain = ((y, *torch.autograd.grad(y, leaves, back)) for y in results)
    for mine in ours:
        torch.testing.assert_close(mine, plain, atol=1e-9, rtol=1e-9)
    with torch.inference_mode():
        torch.testing.assert_close(layer(x), plain[0], atol=1e-9, rtol=1e-9)


def test_experts_one_by_one_have_the_gradients_that_are_asked_for() -> None:
    """By differences, and nothing for what is frozen; a projection without a bias has none."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 3, 4), (12, 4), (12,), (4, 6), (2, 3)]
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    for frozen in range(-1, 5):
        inputs_ = [value.clone().requires_grad_(i != frozen) for i, value in enumerate(values)]
        assert torch.autograd.gradcheck(GegluLoop.apply, inputs_)
    x, weight, _, output, w = (value.clone().requires_grad_(True) for value in values)
    assert torch.autograd.gradcheck(
        lambda *given: GegluLoop.apply(*given[:2], None, *given[2:]), [x, weight, output, w]
    )


def test_experts_one_by_one_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    """The type of autocast, gradients in the weights' own type, and as near to float32 as all experts at once are."""
    layer = upcycled(feed_forward(), shaken=0.3, experts=4)
    x, back = torch.randn(4, 5, WIDTH), torch.randn(4, 5, WIDTH)

    def gradients(lower: bool) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            y = layer(x)
        assert y.dtype == (torch.bfloat16 if lower else torch.float32)
        return [y.float().detach(), *torch.autograd.grad(y, list(layer.parameters()), back.to(y.dtype))]

    exact, at_once = gradients(False), gradients(True)
    monkeypatch.setattr(experts_of, "LARGE", 0)
    assert layer.way(x) == "by_expert"
    for right, other, mine in zip(exact, at_once, gradients(True), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - right).norm() <= 2 * (other - right).norm() + 1e-6


def test_dropout_of_hidden_units_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts_of, "LARGE", 0)
    torch.manual_seed(0)
    layer, x = upcycled(FeedForward(WIDTH, dropout=0.5), experts=4), torch.randn(4, 5, WIDTH)
    assert layer.train().way(x) == "at_once"
    assert layer.eval().way(x) == "by_expert"


@pytest.mark.parametrize(
    "options", [{}, {"router_rate": 0.02}, {"norm_rate": 0.5}, {"input_rate": 0.0, "norm_rate": 3}]
)
@pytest.mark.parametrize("per_expert_norm", [False, True])
def test_each_group_learns_at_a_rate_of_its_own(
    tiny_unet: Backbone, options: dict[str, float], per_expert_norm: bool
) -> None:
    denoiser = Denoiser(tiny_unet, MTU(experts=2, per_expert_norm=per_expert_norm, **options), TASKS)
    groups = MultiTaskModule(denoiser, settings()).configure_optimizers()["optimizer"].param_groups
    rates = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
    assert len(groups) == 1 + len(options)
    assert len(rates) == len(denoiser.trained_parameters())
    found = set()
    for name, parameter in denoiser.trained_parameters().items():
        kind = "router_rate" if "router" in name or name == "mtu_task_embedding.weight" else "experts"
        kind = "norm_rate" if ".norm3." in name or name.endswith(("gain", "shift")) else kind
        kind = "input_rate" if name.startswith("conv_in.") else kind
        assert rates[id(parameter)] == pytest.approx(1e-3 * options.get(kind, 1)), name
        found.add(kind)
    assert found == {"router_rate", "experts", "norm_rate", "input_rate"}


@pytest.mark.parametrize("key", ["router_rate", "norm_rate", "input_rate"])
def test_a_rate_is_a_number(key: str) -> None:
    with pytest.raises(ValueError, match=rf"method.{key}=-1: expected a finite number"):
        MTU(**{key: -1})


def test_a_report_tells_which_of_the_routers_units_live(tiny_unet: Backbone) -> None:
    denoiser = Denoiser(tiny_unet, MTU(experts=2), TASKS)
    assert 0.5 < denoiser.method.report(denoiser.backbone, TASKS)["router_alive"] <= 1
    for name, parameter in denoiser.trained_parameters().items():
        if ".router.0." in name:  # nothing reaches them any more
            torch.nn.init.constant_(parameter, -1e3 if name.endswith("bias") else 0.0)
    found = denoiser.method.report(denoiser.backbone, TASKS)
    assert found["router_alive"] == 0
    assert found["summary"] == "routers: 0% of their ReLU units are alive"
    assert set(Denoiser(BACKBONES["unet"](), MTU(experts=1), TASKS).method.report(denoiser.backbone, TASKS)) == {
        "router"
    }


@pytest.mark.parametrize(("experts", "granularity"), [(1, None), (2, None), (4, None), (8, None), (16, None)])
@pytest.mark.parametrize("shape", [{}, {"per_expert_norm": True}, {"router_input": "task_timestep"}])
def test_starts_uniform_and_equal_to_the_layer(experts: int, granularity: float | None, shape: dict[str, Any]) -> None:
    ff, x = feed_forward(), torch.randn(4, 5, WIDTH)
    layer = upcycled(ff, experts=experts, granularity=granularity, **shape)
    assert torch.equal(layer.gates(TASK, TIME), torch.full((4, experts), 1 / experts))
    torch.testing.assert_close(layer(x), ff(x), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("experts", "granularity"), [(2, 1.0), (4, 1.0), (4, 0.5), (2, 2.0), (1, 2.0), (3, 1.0), (6, 0.5)]
)
def test_wider_experts_start_equal_and_part(experts: int, granularity: float) -> None:
    """Copies of one hidden unit add up to it, and are not doomed to stay alike."""
    ff, x = feed_forward(), torch.randn(4, 5, WIDTH)
    layer = upcycled(ff, experts=experts, granularity=granularity)
    assert MTU(experts=experts, granularity=granularity).equals_base
    assert layer.output.in_features == round(64 * experts * granularity)
    torch.testing.assert_close(layer(x), ff(x), atol=1e-5, rtol=0)
    layer(x).square().sum().backward()
    first, second = layer.net[0].proj.weight.grad[:128].reshape(2, 64, WIDTH)
    assert not torch.allclose(first, second)


def test_unscaled_slices_start_at_a_share_of_the_layer() -> None:
    ff, x = feed_forward(), torch.randn(4, 5, WIDTH)
    layer = upcycled(ff, experts=4, rescale=False)
    bias = ff.net[2].bias
    torch.testing.assert_close(layer(x) - bias, (ff(x) - bias) / 4)
    assert not MTU(rescale=False).equals_base


def test_narrower_and_uneven_experts_promise_no_equality() -> None:
    assert not MTU(experts=4, granularity=0.125).equals_base
    assert not MTU(experts=3, granularity=0.5).equals_base
    assert not MTU(experts=4, top_k=2).equals_base
    assert MTU(experts=4, top_k=4).equals_base


def test_top_k_keeps_the_largest() -> None:
    layer = upcycled(feed_forward(), shaken=0.5, experts=8, top_k=3)
    w = layer.gates(TASK)
    layer.top_k = None
    full = layer.gates(TASK)
    assert (w > 0).sum(1).tolist() == [3] * 4
    torch.testing.assert_close(w.sum(1), torch.ones(4))
    for kept, row in zip(w, full, strict=True):
        best = row.topk(3).indices
        torch.testing.assert_close(kept[best], row[best] / row[best].sum())


def test_gates_depend_on_the_task_and_where_asked_on_the_time() -> None:
    task, t = torch.tensor([1, 1, 2]), torch.tensor([10, 900, 10])
    by_task = upcycled(feed_forward(), shaken=0.5, experts=4).gates(task, t)
    by_both = upcycled(feed_forward(), shaken=0.5, experts=4, router_input="task_timestep").gates(task, t)
    assert torch.equal(by_task[0], by_task[1])
    assert not torch.allclose(by_task[0], by_task[2])
    assert not torch.allclose(by_both[0], by_both[1])
    assert not torch.allclose(by_both[0], by_both[2])


@pytest.mark.parametrize(("experts", "granularity"), [(3, None), (7, None), (4, 0.3), (65, None)])
def test_experts_that_do_not_divide(tiny_unet: Backbone, experts: int, granularity: float | None) -> None:
    with pytest.raises(ValueError, match=rf"^method.experts={experts}, granularity=[^\n]*do not divide[^\n]*$"):
        Denoiser(tiny_unet, MTU(experts=experts, granularity=granularity), TASKS)


@pytest.mark.parametrize(
    ("options", "trained", "total"),
    [({}, 149.1, 859.8), ({"experts": 1}, 149.0, 859.7), ({"embedding_width": 768, "router_width": 768}, 158.5, 869.2)],
)
def test_counts_at_the_size_of_sd15(options: dict[str, Any], trained: float, total: float) -> None:
    """In millions. The paper has 158 trained and 869 in all at N=4, which routers as wide as the text would give."""
    denoiser = Denoiser(sd15_shapes(), MTU(**options), TASKS)
    sets = (denoiser.trained_parameters().values(), denoiser.backbone.denoiser.parameters())
    counts = [round(sum(p.numel() for p in parameters) / 1e6, 1) for parameters in sets]
    assert counts == [trained, total]


def test_gradient_of_a_task_alone(tiny_unet: Backbone) -> None:
    """With N=1 there is no router: only norms and input convolutions know the task."""
    denoiser = Denoiser(tiny_unet, MTU(experts=1), TASKS)
    assert not [k for k in denoiser.trained_parameters() if "router" in k or "embedding" in k]
    noisy, t, condition = inputs(tiny_unet, [1, 1])
    denoiser(noisy, t, condition).sum().backward()
    rows = denoiser.method.task_parameters(tiny_unet)
    assert all(p.grad is not None and p.grad[1].any() and not p.grad[[0, 2, 3]].any() for p in rows)


def test_experts_may_start_at_random(tiny_unet: Backbone) -> None:
    """The control of slices: nothing of the layer's own weights is left, the shapes are the same, all else is kept."""
    ff = feed_forward()
    slices, control = upcycled(ff), upcycled(ff, start="random")
    for name, parameter in slices.named_parameters():
        own = dict(control.named_parameters())[name]
        assert own.shape == parameter.shape
        kept = name.startswith("router")
        assert kept or not torch.isclose(own, parameter).any(), name
    assert MTU().equals_base
    assert not MTU(start="random").equals_base
    with pytest.raises(ValueError, match=r"method\.start='noise': expected 'slices' or 'random'"):
        MTU(start="noise")  # type: ignore[arg-type]
