"""What a network without some modules of a supernet costs: FLOPs, memory, and latency by a table that is measured.

latency = rest + sum of the blocks that are on + sum of the feed-forward layers inside of them at their widths

Every module is timed where it stands, while the whole network runs: caches are as they will be. Layers are timed at
every width, since time is not proportional to it. FLOPs and weights are exact sums; memory adds the largest sum of
activations that lives at once in the whole network, which smaller ones stay below.
"""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mtdiff.costs.flops import count_flops
from mtdiff.costs.measure import MB, measure_latency, wait_for_gpu

Milliseconds = Mapping[str, float]


@dataclass(frozen=True)
class Part:
    """A module as costs see it. block: number of the block that a slice lies in. layer: name of a slice's layer."""

    name: str
    block: int | None
    layer: str | None
    flops: int
    weights: int


@dataclass(frozen=True)
class Table:
    """Milliseconds: of the rest, of each block beside its layers, and of each layer at 1 to N slices."""

    rest: float
    blocks: Mapping[str, float]
    layers: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Costs:
    """Predicts what is left. flops, weights: of the whole network. activations: bytes. parts: blocks, then slices."""

    parts: Sequence[Part]
    flops: int
    weights: int
    activations: int
    table: Table | None = None

    def is_on(self, keep: Sequence[bool], number: int) -> bool:
        block = self.parts[number].block
        return keep[number] and (block is None or keep[block])

    def count_flops(self, keep: Sequence[bool]) -> float:
        return self.flops - sum(p.flops for k, p in enumerate(self.parts) if not self.is_on(keep, k))

    def count_weights(self, keep: Sequence[bool]) -> int:
        return self.weights - sum(p.weights for k, p in enumerate(self.parts) if not self.is_on(keep, k))

    def predict_memory(self, keep: Sequence[bool]) -> float:
        """10^6 bytes: weights in float32, and the activations of one sample's call at most."""
        return (4 * self.count_weights(keep) + self.activations) / MB

    def predict_latency(self, keep: Sequence[bool]) -> float:
        """Milliseconds of one call."""
        assert self.table is not None
        widths = dict.fromkeys(self.table.layers, 0)
        inside = {p.layer: p.block for p in self.parts if p.layer is not None}
        for k, part in enumerate(self.parts):
            if part.layer is not None and self.is_on(keep, k):
                widths[part.layer] += 1
        there = [name for name in widths if (block := inside[name]) is None or keep[block]]
        blocks = sum(self.table.blocks[p.name] for k, p in enumerate(self.parts) if p.layer is None and keep[k])
        return self.table.rest + blocks + sum(self.table.layers[name][widths[name]] for name in there)

    def predict(self, limit: str, keep: Sequence[bool]) -> float:
        """What `limit` names: latency_ms, flops or memory_mb."""
        if limit == "flops":
            return self.count_flops(keep)
        return self.predict_latency(keep) if limit == "latency_ms" else self.predict_memory(keep)


# Measuring


@contextmanager
def time_modules(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, float]]:
    """Milliseconds that each module takes in the calls that are made meanwhile, by name."""
    found: dict[str, float] = dict.fromkeys(modules, 0.0)
    began: dict[str, float] = {}
    handles = []

    def start(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait_for_gpu()
            began[name] = time.perf_counter()

        return hook

    def stop(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            wait_for_gpu()
            found[name] += 1e3 * (time.perf_counter() - began[name])

        return hook

    for name, module in modules.items():
        handles += [module.register_forward_pre_hook(start(name)), module.register_forward_hook(stop(name))]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Timed:
    """A network of one width to be timed: a call of it, and its blocks, what stays of them, and layers by name."""

    call: Callable[[], object]
    blocks: Mapping[str, nn.Module]
    kept: Mapping[str, nn.Module]
    layers: Mapping[str, nn.Module]

    def time(self) -> tuple[Milliseconds, Milliseconds, Milliseconds]:
        """Milliseconds within one call, by name of blocks, of what stays of them, and of layers."""
        with time_modules(self.blocks) as blocks, time_modules(self.kept) as kept, time_modules(self.layers) as layers:
            self.call()
        return blocks, kept, layers


def measure_table(
    widths: Sequence[Timed],
    least: Callable[[], object],
    inside: Mapping[str, str | None],
    repeats: int,
    advance: Callable[[], object],
) -> Table:
    """Time networks of 1 to N slices a layer, and `least`, the one without any module; they take turns.

    inside: the block of each layer. advance: called after a turn. The first turns warm up and do not count; of the
    others medians are taken. Clocks take time themselves: so the whole network and the least one are timed without
    them, and the times of modules are scaled to fill what lies between.
    """
    warmup, turns = 2, []
    for _ in range(warmup + repeats):
        ends = [measure_latency(call, repeats=1, warmup=0)["median"] for call in (least, widths[-1].call)]
        turns.append((ends, [timed.time() for timed in widths]))
        advance()
    counted = turns[warmup:]

    def median(read: Callable[[Any], float]) -> float:
        return float(np.median([read(turn) for turn in counted]))

    def block_ms(turn: Any, name: str) -> float:
        blocks, kept, layers = turn[1][-1]
        return blocks[name] - kept.get(name, 0.0) - sum(layers[n] for n, b in inside.items() if b == name)

    def layer_ms(turn: Any, name: str, width: int) -> float:
        return turn[1][width][2][name]

    shortest, longest = (median(lambda turn, k=k: turn[0][k]) for k in (0, 1))  # type: ignore[misc]
    blocks = {name: median(lambda turn, name=name: block_ms(turn, name)) for name in widths[-1].blocks}  # type: ignore[misc]
    layers = {
        name: [median(lambda turn, name=name, w=w: layer_ms(turn, name, w)) for w in range(len(widths))]  # type: ignore[misc]
        for name in inside
    }
    outside = sum(layers[name][0] for name, block in inside.items() if block is None)  # in the least network too
    clocked = sum(blocks.values()) + sum(times[-1] for times in layers.values()) - outside
    scale = max(0.0, longest - shortest) / clocked
    scaled = {name: [scale * ms for ms in times] for name, times in layers.items()}
    return Table(shortest - scale * outside, {name: scale * ms for name, ms in blocks.items()}, scaled)


class ActivationCounter(TorchDispatchMode):
    """Counts the bytes of all tensors made meanwhile that live at once, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {x.untyped_storage()._cdata for x in torch.utils._pytree.tree_leaves((args, kwargs)) if is_plain(x)}
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if is_plain(x) and (storage := x.untyped_storage())._cdata not in before:
                self._now += storage.nbytes()
                self.most = max(self.most, self._now)
                weakref.finalize(storage, self._forget, storage.nbytes())
        return out

    def _forget(self, size: int) -> None:
        self._now -= size


def is_plain(x: Any) -> bool:
    return isinstance(x, Tensor) and x.layout == torch.strided


def count_activations(call: Callable[[], object]) -> int:
    """Bytes that one call keeps at once beside what is there before it, at most."""
    with torch.no_grad(), ActivationCounter() as counter:
        call()
    return counter.most


def count_whole(network: nn.Module, call: Callable[[], object]) -> tuple[int, int, int]:
    """FLOPs of a call, number of weights, and bytes of activations at most."""
    weights = sum(p.numel() for p in network.parameters())
    return count_flops(network, call).total, weights, count_activations(call)
