"""MTU's feed-forward layer, forward and backward, against the dense layer it came from and a plain loop over experts.

Letters: B batch, L tokens, C width, N experts.
"""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from benchmarks.timing import Bar, Comparison, How, largest_difference, take_turns
from mtdiff.methods.experts import Experts
from mtdiff.methods.mtu import MTU
from mtdiff.methods.routing import Routing

SIZES = ((320, 4096), (640, 1024), (1280, 256))  # width and tokens of SD 1.5's feed-forward layers
EXPERTS, SAMPLES = 4, 4
BATCHES = {"one task": [0] * SAMPLES, "four tasks": list(range(SAMPLES))}


class Loop(nn.Module):
    """sum_i w_i E_i(x), one expert after the other, each an ordinary feed-forward layer. x (B, L, C) -> (B, L, C)."""

    def __init__(self, fused: Experts) -> None:
        super().__init__()
        width, self.fused = len(fused.output.weight), (fused,)  # read for its gates, not owned
        self.experts = nn.ModuleList(FeedForward(width, inner_dim=fused.each) for _ in range(fused.experts))
        values, gates = fused.net[0].get_submodule("proj").weight.chunk(2)  # type: ignore[union-attr, operator]
        value_bias, gate_bias = fused.net[0].get_submodule("proj").bias.chunk(2)  # type: ignore[union-attr, operator]
        assert fused.bias is not None
        with torch.no_grad():
            for i, expert in enumerate(self.experts):
                mine = slice(i * fused.each, (i + 1) * fused.each)
                projection, out = expert.net[0].proj, expert.net[2]  # type: ignore[union-attr, index]
                projection.weight.copy_(torch.cat([values[mine], gates[mine]]))  # type: ignore[operator, union-attr]
                projection.bias.copy_(torch.cat([value_bias[mine], gate_bias[mine]]))  # type: ignore[operator, union-attr]
                out.weight.copy_(fused.scale * fused.output.weight[:, mine])  # type: ignore[operator, union-attr]
                out.bias.copy_(fused.bias[i])  # type: ignore[operator, union-attr]

    def forward(self, x: Tensor) -> Tensor:
        (fused,) = self.fused
        w = fused.gates(fused.routing.task)  # (B, N)
        out = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            out = out + w[:, i, None, None] * expert(x)
        return out


def compare_experts(how: How, turns: int, sizes: Sequence[tuple[int, int]] = SIZES) -> list[Comparison]:
    """For every size, with one task in the batch and with four. `way` of the case: which of its ways MTU takes there;
    `fused` is the one without any loop, all experts at once."""
    return [compare_size(*size, tasks, how, turns) for size in sizes for tasks in BATCHES]


def compare_size(width: int, tokens: int, tasks: str, how: How, turns: int) -> Comparison:
    torch.manual_seed(0)
    dense = FeedForward(width).to(how.device)
    routing, embedding, method = Routing(), nn.Embedding(SAMPLES, 64), MTU(experts=EXPERTS)
    fused = Experts(copy.deepcopy(dense), "ff", method.options, routing, embedding).to(how.device)
    embedding.to(how.device)
    nn.init.normal_(fused.router.get_parameter("2.weight"))  # so that tasks mix the experts in their own ways
    task = torch.tensor(BATCHES[tasks], device=how.device)
    routing.write(task, task)
    looped = Loop(fused).to(how.device)
    x, back = torch.randn(2, SAMPLES, tokens, width, device=how.device)  # (B, L, C) each
    way = fused.way(x)
    layers: dict[str, Callable[[Tensor], Tensor]] = {"dense": dense, "loop": looped}
    layers["fused"] = lambda v: at_once(fused, v)
    if way != "at_once":
        layers["mtu"] = fused
    chosen = "fused" if way == "at_once" else "mtu"
    counts = {"difference": largest_error(layers, chosen, x)}
    trained = [*dense.parameters(), *looped.parameters(), *fused.parameters(), *embedding.parameters()]
    calls = {name: there_and_back(layer, x, back, trained, how) for name, layer in layers.items()}
    bars = [Bar(chosen, "dense", most=1.05), Bar(chosen, "loop", most=1.0), Bar("loop", "dense")]
    bars += [Bar("fused", "dense"), Bar("fused", "loop")] if chosen == "mtu" else []
    seconds = take_turns(calls, how, how.turns(turns))
    return Comparison("experts", f"{width} wide, {tokens} tokens, {tasks}, {way}", seconds, tuple(bars), counts)


def at_once(fused: Experts, x: Tensor) -> Tensor:
    """The layer without any loop, whatever it would choose."""
    w = fused.gates(fused.routing.task)
    assert fused.bias is not None
    out = fused.mix(x, fused.scale * w, "at_once")
    return out + (w @ fused.bias).unsqueeze(1).to(out.dtype)


@torch.no_grad()
def largest_error(layers: Mapping[str, Callable[[Tensor], Tensor]], chosen: str, x: Tensor) -> float:
    """The largest difference of the ways to mix the experts from the plain loop."""
    return max(largest_difference(layers[name](x), layers["loop"](x)) for name in {chosen, "fused"})


def there_and_back(
    layer: Callable[[Tensor], Tensor], x: Tensor, back: Tensor, trained: list[nn.Parameter], how: How
) -> Callable[[], None]:
    """One forward and backward pass, with gradients of the input and of all weights."""

    def call() -> None:
        leaf = x.detach().requires_grad_(True)
        with how.autocast():
            out = layer(leaf)
        out.backward(back.to(out.dtype))
        for p in trained:
            p.grad = None

    return call
