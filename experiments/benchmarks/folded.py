"""A folded MTU against the base it came from: one call of the denoiser, its parameters and FLOPs."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from benchmarks.timing import Bar, Comparison, How, take_turns
from mtdiff.backbones.base import Backbone
from mtdiff.costs.flops import count_flops, encode_prompt
from mtdiff.costs.measure import materialise
from mtdiff.methods.mtu import MTU
from mtdiff.methods.untouched import Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.runs.export import arrange_input
from mtdiff.runs.model import Takes

TAKES = {"text_to_image": Takes(False, True, False), "edit": Takes(True, True, False)}


def compare_folded(base: Backbone, how: How, calls: int, turns: int) -> list[Comparison]:
    """For a task without and, but for its four more input channels, one with a source. `calls` are timed together.

    base: left as it is; one of shapes alone gets random weights.
    """
    untouched = prepare_network(Denoiser(copy.deepcopy(base), Untouched(), list(TAKES)), how)
    made = []
    for task in TAKES:
        network = prepare_network(folded_for(base, task), how)
        made.append(compare_case(untouched, network, base, task, how, calls, turns))
    return made


def folded_for(base: Backbone, task: str) -> Denoiser:
    """`moved_mtu`, folded for a task as an export folds it."""
    denoiser = moved_mtu(base, list(TAKES))
    backbone: Any = denoiser.backbone
    denoiser.method.fold(backbone, list(TAKES).index(task))
    (site,) = backbone.sites("input")
    assert isinstance(site.module, nn.Conv2d)
    site.replace(arrange_input(site.module, TAKES[task], backbone))
    backbone.sync_config()
    return denoiser


@torch.no_grad()
def moved_mtu(base: Backbone, tasks: Sequence[str]) -> Denoiser:
    """MTU on a copy of the base, always the same: what is trained is shifted, so that no term is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # MTU draws its task embedding and routers
        denoiser = Denoiser(copy.deepcopy(base), MTU(), tasks)
    generator = torch.Generator().manual_seed(0)
    for p in denoiser.trained_parameters().values():
        if not p.is_meta:
            p.add_(0.01 * torch.randn(p.shape, generator=generator))
    return denoiser


def prepare_network(denoiser: Denoiser, how: How) -> nn.Module:
    """The denoising network on the device, with random weights where it had shapes alone."""
    network = denoiser.backbone.denoiser
    if next(network.parameters()).is_meta:
        materialise(denoiser, how.device, torch.float32)
    return network.to(how.device).eval().requires_grad_(False)


def compare_case(
    base: nn.Module, network: nn.Module, backbone: Backbone, case: str, how: How, calls: int, turns: int
) -> Comparison:
    tokens = encode_prompt(backbone).tokens.to(how.device)  # (1, L, D)
    side = backbone.latent_shape[1:]

    def call(net: nn.Module) -> Callable[[], None]:
        first = net.get_submodule("conv_in")
        assert isinstance(first, nn.Conv2d)
        x, t = torch.zeros(1, first.in_channels, *side, device=how.device), torch.tensor([500], device=how.device)

        def repeat() -> None:
            with torch.no_grad(), how.autocast():
                for _ in range(calls):
                    net(x, t, encoder_hidden_states=tokens)

        return repeat

    variants = {"base": call(base), "folded": call(network)}
    counts = {"parameters": numbers(network) / numbers(base)}
    flops = {name: count_flops(net, call(net)).total for name, net in (("base", base), ("folded", network))}
    counts["flops"] = flops["folded"] / flops["base"]
    seconds = take_turns(variants, how, how.turns(turns))
    per_call = {name: [s / calls for s in values] for name, values in seconds.items()}
    return Comparison("folded", case, per_call, (Bar("folded", "base", "time", 0.98, 1.02),), counts)


def numbers(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())
