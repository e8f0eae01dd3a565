"""A denoiser as a supernet: its modules that may be switched off, what each costs, and the network without some.

Modules are blocks (`Backbone.removable`) and slices of feed-forward layers. They are numbered: all blocks first, in the
order of the forward pass, then the slices of each layer but its first, which goes with the layer's block.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mtdiff.backbones.base import Backbone, Site
from mtdiff.methods.gates import Choice, GatedBlock, GatedFeedForward, Skipped, narrow_feed_forward
from mtdiff.types import Condition


@dataclass(frozen=True)
class Module:
    """One module. parent: number of the block that a slice lies in, without which it does nothing.

    flops: of one sample's call, attention products included, what is saved where the module alone is gone; a block's
    are without those of its slices. share: the same as a share of the base's.
    """

    name: str
    kind: Literal["transformer", "residual", "slice"]
    parent: int | None
    share: float
    flops: int


def find_modules(backbone: Backbone, slices: int) -> list[Module]:
    """The modules of an untouched base. ValueError where its layers do not divide. Reads no values."""
    blocks, layers = backbone.removable(), backbone.sites("ffn")
    if not blocks:
        raise ValueError(f"method: {type(backbone).__name__} names no blocks to do without, so there is no supernet")
    for site in layers:
        check_slices(site, slices)
    names = [block.site.name for block in blocks]
    flops, total = count_module_flops(backbone)
    parents = [next((k for k, n in enumerate(names) if s.name.startswith(f"{n}.")), None) for s in layers]
    own = [flops[b.site.name] - sum(flops.get(f"{b.site.name}.{k}", 0) for k in b.keeps) for b in blocks]
    found = []
    for site, parent in zip(layers, parents, strict=True):
        each = flops.get(site.name, 0) // slices
        found += [Module(f"{site.name}#{j}", "slice", parent, each / total, each) for j in range(1, slices)]
        if parent is not None:
            own[parent] -= each * (slices - 1)
    return [*(Module(n, b.kind, None, f / total, f) for n, b, f in zip(names, blocks, own, strict=True)), *found]


def check_slices(site: Site, slices: int) -> None:
    net = site.module.get_submodule("net")
    assert isinstance(net, nn.ModuleList)
    units = net[2].in_features
    if units % slices:  # type: ignore[operator]
        raise ValueError(f"method.slices={slices}: expected a divisor of the {units} hidden units of {site.name}")


def count_module_flops(backbone: Backbone) -> tuple[dict[str, int], int]:
    """FLOPs of one sample's call: of every module by its name in the denoiser, and in all. Counted on shapes alone."""
    shapes = copy_shapes(backbone)
    (site,) = backbone.sites("input")
    text = backbone.embed(["a picture"])
    latent = torch.zeros(1, *backbone.latent_shape, device="meta")
    packed = torch.zeros(1, site.width, *backbone.latent_shape[1:], device="meta")
    task = torch.zeros(1, dtype=torch.long, device="meta")
    condition = Condition(latent, latent[:, :1], text.tokens, task, text.extra).to("meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shapes.predict(packed, task, condition)
    root = f"{type(shapes.denoiser).__name__}."
    found = counter.get_flop_counts()
    named = {name.removeprefix(root): sum(ops.values()) for name, ops in found.items() if name.startswith(root)}
    return named, counter.get_total_flops()


def copy_shapes(backbone: Backbone) -> Backbone:
    """A copy whose denoiser has shapes alone; what stands around it is shared."""
    tensors = [*backbone.denoiser.parameters(), *backbone.denoiser.buffers()]
    memo: dict[int, object] = {id(module): module for module in backbone.children() if module is not backbone.denoiser}
    for tensor in tensors:
        empty = tensor.detach().to("meta")
        memo[id(tensor)] = nn.Parameter(empty, False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(backbone, memo)


def number_layers(modules: Sequence[Module]) -> dict[str, int]:
    """The number of each feed-forward layer's second slice, by the layer's name."""
    return {m.name.removesuffix("#1"): k for k, m in enumerate(modules) if m.kind == "slice" and m.name.endswith("#1")}


def install_gates(backbone: Backbone, modules: Sequence[Module], slices: int, choice: Choice) -> None:
    """Put every module behind its gate, in place."""
    numbers = number_layers(modules)
    for site in backbone.sites("ffn"):
        if site.name in numbers:
            site.replace(GatedFeedForward(site.module, slices, numbers[site.name], choice))
    for number, block in enumerate(backbone.removable()):
        block.site.replace(GatedBlock(block, number, choice))


def remove_gates(denoiser: nn.Module) -> None:
    """Take the gates away, in place: the network is the base's own again, with all its modules."""
    for parent, name, child in list(walk_children(denoiser)):
        if isinstance(child, GatedBlock):
            parent.add_module(name, child.block)
    for parent, name, child in list(walk_children(denoiser)):
        if isinstance(child, GatedFeedForward):
            parent.add_module(name, child.unwrap())


def walk_children(root: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """Every module below `root` with its parent and its name there."""
    for parent in root.modules():
        yield from ((parent, name, child) for name, child in parent.named_children())


def close_choice(modules: Sequence[Module], keep: Sequence[bool]) -> list[bool]:
    """The same choice without slices whose block is gone."""
    return [on and (m.parent is None or keep[m.parent]) for m, on in zip(modules, keep, strict=True)]


def reduce_network(backbone: Backbone, modules: Sequence[Module], slices: int, keep: Sequence[bool]) -> bool:
    """Take what is not kept out of an ungated network, in place; whether a plain diffusers network is left."""
    keep, numbers, plain = close_choice(modules, keep), number_layers(modules), True
    layers = [(site.module, numbers[site.name]) for site in backbone.sites("ffn") if site.name in numbers]
    blocks = [(block, block.site.module) for block, on in zip(backbone.removable(), keep, strict=False) if not on]
    drops, names = backbone.drops(), list_drops(backbone, [block for _, block in blocks])
    for name in names:
        drops[name]()
    places = {id(child): (parent, name) for parent, name, child in walk_children(backbone.denoiser)}
    inside = {id(child) for _, module in blocks for child in module.modules()}
    for ff, first in layers:
        on = (True, *keep[first : first + slices - 1])
        if id(ff) not in inside and not all(on):
            narrow_feed_forward(ff, on)
            plain = False
    for block, module in blocks:
        if id(module) in places:
            parent, name = places[id(module)]
            parent.add_module(name, Skipped(block))
            plain = False
    return plain


def list_drops(backbone: Backbone, blocks: Sequence[nn.Module]) -> list[str]:
    """Names of `Backbone.drops` that take nothing out but what is in these blocks. backbone: without gates."""
    gone = {id(p) for block in blocks for p in block.parameters()}
    if not gone:
        return []
    taken = {name: take_drop(copy_structure(backbone), name) for name in backbone.drops()}
    return [name for name, parameters in taken.items() if parameters and parameters <= gone]


def take_drop(backbone: Backbone, name: str) -> set[int]:
    """Take a part out, in place; the parameters that went with it, by identity."""
    before = {id(p) for p in backbone.denoiser.parameters()}
    backbone.drops()[name]()
    return before - {id(p) for p in backbone.denoiser.parameters()}


def copy_structure(backbone: Backbone) -> Backbone:
    """A copy whose modules are its own and whose tensors are shared."""
    tensors = [*backbone.denoiser.parameters(), *backbone.denoiser.buffers()]
    around = [module for module in backbone.children() if module is not backbone.denoiser]
    return copy.deepcopy(backbone, {id(x): x for x in [*tensors, *around]})
