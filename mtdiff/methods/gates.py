"""Gates: blocks and slices of feed-forward layers that are on or off for each sample, and what is left without them.

A gate is 0 or 1. The gradient that reaches it is that of mixing what the block gives with what skips it (straight
through, Bengio et al., arXiv 1308.3432); a block that is off gets none.

Letters: B batch, M gates, N slices of a layer, L tokens, C width, U hidden units.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.attention import FeedForward
from torch import Tensor, nn

from mtdiff.backbones.base import Removable


class Choice:
    """The gates (B, M) of the current call. Written as the network is entered and never cleared, as `Routing`.

    keep: which of the M are on, where all rows agree and none takes gradient; then nothing that is off is computed.
    """

    def __init__(self) -> None:
        self._gates: Tensor | None = None
        self.keep: Sequence[bool] | None = None

    def __deepcopy__(self, memo: Any) -> "Choice":
        """A copy has not been written yet: gates may carry a graph, which cannot be copied."""
        return Choice()

    def write(self, gates: Tensor | None, keep: Sequence[bool] | None) -> None:
        self._gates, self.keep = gates, keep

    def read(self) -> tuple[Tensor | None, Sequence[bool] | None]:
        """What `write` takes to bring back this state."""
        return self._gates, self.keep

    @property
    def gates(self) -> Tensor:
        if self._gates is None:
            raise RuntimeError("gates were read before any call of the denoiser wrote them")
        return self._gates


class GatedBlock(nn.Module):
    """A block of the base behind gate `number`."""

    def __init__(self, removable: Removable, number: int, choice: Choice) -> None:
        super().__init__()
        self.block, self.skip, self.number, self.choice = removable.site.module, removable.skip, number, choice

    def forward(self, *args: Any, **options: Any) -> Any:
        keep = self.choice.keep
        if keep is None:
            gate = self.choice.gates[:, self.number]  # (B,)
            return mix(gate, self.block(*args, **options), self.skip(self.block, *args, **options))
        return self.block(*args, **options) if keep[self.number] else self.skip(self.block, *args, **options)


class Skipped(nn.Module):
    """What stands in the place of a block that is gone: nothing, or the children that are needed to skip it."""

    def __init__(self, removable: Removable) -> None:
        super().__init__()
        self.skip = removable.skip
        for name in removable.keeps:
            self.add_module(name, removable.site.module.get_submodule(name))

    def forward(self, *args: Any, **options: Any) -> Any:
        return self.skip(self, *args, **options)


def mix(gate: Tensor, block: Any, skip: Any) -> Any:
    """The block's result (B, ...) where the gate (B,) is 1, else what skips it; in tuples entry by entry."""
    if isinstance(block, tuple):
        return tuple(mix(gate, a, b) for a, b in zip(block, skip, strict=True))
    gate = gate.view(-1, *[1] * (block.dim() - 1))
    mixed = torch.where(gate.detach() > 0.5, block, skip)
    if gate.requires_grad:  # adds zero, and with it the gradient of the gate
        mixed = mixed + ((gate - gate.detach()) * (block - skip).detach()).to(mixed.dtype)
    return mixed


class GatedFeedForward(nn.Module):
    """A diffusers `FeedForward` in N slices of its hidden units; the first is always on, gate `number` is the second's.

    x (B, L, C) -> (B, L, C). `net` keeps the layer's own modules: activation (C -> U), dropout, product (U -> C).
    """

    def __init__(self, ff: nn.Module, slices: int, number: int, choice: Choice) -> None:
        super().__init__()
        net = ff.get_submodule("net")
        assert isinstance(net, nn.ModuleList)
        self.net, self.slices, self.number, self.choice = net, slices, number, choice

    @property
    def gates(self) -> slice:
        return slice(self.number, self.number + self.slices - 1)

    def forward(self, x: Tensor) -> Tensor:
        keep = self.choice.keep
        if keep is None:
            gates = self.choice.gates[:, self.gates]  # (B, N - 1)
            gates = torch.cat([torch.ones_like(gates[:, :1]), gates], 1).to(x.dtype)
            hidden = self.net[1](self.net[0](x)).unflatten(-1, (self.slices, -1))  # (B, L, N, U / N)
            out = self.net[2]((hidden * gates[:, None, :, None].to(hidden.dtype)).flatten(-2))
        elif all(keep[self.gates]):
            out = self.net[2](self.net[1](self.net[0](x)))
        else:
            out = self._run_slices(x, (True, *keep[self.gates]))
        for dropout in self.net[3:]:
            out = dropout(out)
        return out

    def _run_slices(self, x: Tensor, on: Sequence[bool]) -> Tensor:
        weights, weight = slice_weights(self.net, on)
        hidden = self.net[1](torch.func.functional_call(self.net[0], weights, (x,)))
        return nn.functional.linear(hidden, weight, self.net[2].bias)  # type: ignore[arg-type]

    def unwrap(self) -> FeedForward:
        """The layer as it was, all slices on."""
        plain = FeedForward(1, inner_dim=1)
        plain.net = self.net
        return plain


def slice_weights(net: nn.ModuleList, on: Sequence[bool]) -> tuple[dict[str, Tensor], Tensor]:
    """Weights of the activation by name, and of the output product, for the slices that are on."""
    projection, out = net[0].get_submodule("proj"), net[2]
    assert isinstance(projection, nn.Linear)
    assert isinstance(out, nn.Linear)
    units = torch.arange(out.in_features, device=out.weight.device).unflatten(0, (len(on), -1))  # (N, U / N)
    kept = units[[j for j, is_on in enumerate(on) if is_on]].flatten()
    parts = projection.out_features // out.in_features  # values, then gates of a GEGLU
    rows = torch.cat([kept + part * out.in_features for part in range(parts)])
    first = {"proj.weight": projection.weight[rows]}
    if projection.bias is not None:
        first["proj.bias"] = projection.bias[rows]
    return first, out.weight[:, kept]


@torch.no_grad()
def narrow_feed_forward(ff: nn.Module, on: Sequence[bool]) -> None:
    """Take the slices that are off out of a plain feed-forward layer, in place."""
    if all(on):
        return
    net: Any = ff.get_submodule("net")
    projection, out = net[0].proj, net[2]
    first, second = slice_weights(net, on)
    trained = out.weight.requires_grad
    for name, value in first.items():
        setattr(projection, name.removeprefix("proj."), nn.Parameter(value.contiguous(), trained))
    out.weight = nn.Parameter(second.contiguous(), trained)
    projection.out_features, out.in_features = len(projection.weight), out.weight.shape[1]
