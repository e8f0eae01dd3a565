"""The cost model of a run's supernet for one task on this machine: counted, and timed once into the user's cache."""

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mtdiff.costs.flops import encode_prompt, make_condition
from mtdiff.costs.measure import make_call, measure_latency
from mtdiff.costs.modules import Costs, Part, Table, Timed, count_whole, measure_table
from mtdiff.files.writing import find_user_cache, write_atomically
from mtdiff.methods.assembler import Assembler
from mtdiff.methods.supernet import Module, number_layers
from mtdiff.model.denoiser import Denoiser
from mtdiff.provenance import device_name, versions
from mtdiff.results.phases import Phases
from mtdiff.types import Condition

log = logging.getLogger(__name__)
REPEATS = 25  # turns of timing that count
PROBES = 15  # calls by which a table is held against today
DRIFT = 0.1  # of the whole network's latency, beyond which a table is made anew


def make_row(denoiser: Denoiser, source: bool, batch: int = 1) -> Condition:
    """The condition of a call to be measured, for a network of one task."""
    row = make_condition(denoiser.backbone, encode_prompt(denoiser.backbone), source)
    return Condition.cat([row] * batch).to(denoiser.device)


def assemble_copy(denoiser: Denoiser, keep: Sequence[bool], task: int) -> Denoiser:
    """A copy of a supernet's network that has these modules alone, for one task, whose number is 0 in it."""
    left = copy.deepcopy(denoiser)
    left.method.assemble(left.backbone, keep, task)
    return left.eval()


def count_parts(whole: Denoiser, assembler: Assembler, batch: int) -> list[Part]:
    """Every module with its FLOPs and weights. whole: the network with all of them."""
    blocks = {b.site.name: b for b in whole.backbone.removable()}
    layers = {site.name: site.module for site in whole.backbone.sites("ffn")}
    numbers = number_layers(assembler.plan)
    slices = sum(m.name.startswith(f"{next(iter(numbers))}#") for m in assembler.plan) + 1 if numbers else 1
    weigh = {name: count_slice(layers[name], slices) for name in numbers}
    parts = []
    for module in assembler.plan:
        layer = module.name.partition("#")[0] if module.kind == "slice" else None
        weights = weigh[layer] if layer is not None else count_block(blocks[module.name], module, assembler.plan, weigh)
        parts.append(Part(module.name, module.parent, layer, batch * module.flops, weights))
    return parts


def count_slice(ff: nn.Module, slices: int) -> int:
    """Weights of one slice of a feed-forward layer, whose output bias stays."""
    net: Any = ff.get_submodule("net")
    return (sum(p.numel() for p in net[0].parameters()) + net[2].weight.numel()) // slices


def count_block(block: Any, module: Module, plan: Sequence[Module], weigh: Mapping[str, int]) -> int:
    """Weights that go with a block, beside those of its slices."""
    kept = sum(p.numel() for name in block.keeps for p in block.site.module.get_submodule(name).parameters())
    number = plan.index(module)
    inside = sum(weigh[m.name.partition("#")[0]] for m in plan if m.parent == number)
    return sum(p.numel() for p in block.site.module.parameters()) - kept - inside


def make_timed(denoiser: Denoiser, row: Condition, names: Sequence[str], layers: Sequence[str]) -> Timed:
    """An assembled network with all its blocks, to be timed."""
    network = denoiser.backbone.denoiser
    blocks = {name: network.get_submodule(name) for name in names}
    kept = {
        block.site.name: network.get_submodule(f"{block.site.name}.{child}")
        for block in denoiser.backbone.removable()
        for child in block.keeps
    }
    return Timed(make_call(denoiser, row), blocks, kept, {name: network.get_submodule(name) for name in layers})


def build_costs(
    denoiser: Denoiser,
    assembler: Assembler,
    task: int,
    source: bool,
    phases: Phases,
    batch: int = 1,
    timed: bool = True,
) -> Costs:
    """Count a supernet's modules for one task; timed: with their latencies, from the cache or measured now."""
    plan, numbers = assembler.plan, number_layers(assembler.plan)
    whole = assemble_copy(denoiser, [True] * len(plan), task)
    row = make_row(whole, source, batch)
    flops, weights, activations = count_whole(whole.backbone.denoiser, make_call(whole, row))
    parts = count_parts(whole, assembler, batch)
    if not timed:
        return Costs(parts, flops, weights, activations)
    key = hash_key(whole, row, numbers)
    table = read_table(key)
    costs = Costs(parts, flops, weights, activations, table)
    if table is None or not is_current(costs, make_call(whole, row)):
        costs = replace(costs, table=measure(denoiser, assembler, task, row, phases))
        assert costs.table is not None
        keep_table(key, costs.table)
    return costs


def is_current(costs: Costs, call: Callable[[], object]) -> bool:
    """Whether the whole network is as fast now as when the table was made: a busy machine makes a slow one."""
    found, kept = measure_latency(call, PROBES)["median"], costs.predict_latency([True] * len(costs.parts))
    if abs(found / kept - 1) <= DRIFT:
        return True
    log.warning("the whole network takes %.3g ms now and took %.3g ms: its modules are measured anew", found, kept)
    return False


def measure(denoiser: Denoiser, assembler: Assembler, task: int, row: Condition, phases: Phases) -> Table:
    plan, numbers = assembler.plan, number_layers(assembler.plan)
    names = [m.name for m in plan if m.kind != "slice"]
    inside = {name: None if (k := plan[first].parent) is None else plan[k].name for name, first in numbers.items()}
    slices = 1 + max((int(m.name.partition("#")[2]) for m in plan if m.kind == "slice"), default=0)
    widths = []
    for width in range(1, slices + 1):
        keep = [m.kind != "slice" or int(m.name.partition("#")[2]) < width for m in plan]
        widths.append(make_timed(assemble_copy(denoiser, keep, task), row, names, list(numbers)))
    least = make_call(assemble_copy(denoiser, [False] * len(plan), task), row)
    with phases.start("measure modules", REPEATS + 2, "turns") as phase:
        return measure_table(widths, least, inside, REPEATS, phase.advance)


def hash_key(whole: Denoiser, row: Condition, numbers: Mapping[str, int]) -> str:
    """What a table of latencies holds for: machine, versions, threads, and the shapes of network and call."""
    shapes = {name: list(value.shape) for name, value in whole.backbone.denoiser.state_dict().items()}
    about = [device_name(str(whole.device)), torch.get_num_threads(), versions(), shapes, dict(numbers), REPEATS]
    call = [list(row.source.shape), list(row.text.shape), bool(row.mask.flatten()[0])]
    return hashlib.sha256(json.dumps([*about, *call], sort_keys=True).encode()).hexdigest()[:32]


def find_table(key: str) -> Path:
    return find_user_cache() / "latencies" / f"{key}.json"


def read_table(key: str) -> Table | None:
    try:
        found = json.loads(find_table(key).read_text())
        return Table(float(found["rest"]), dict(found["blocks"]), dict(found["layers"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep_table(key: str, table: Table) -> None:
    path = find_table(key)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(asdict(table), indent=1) + "\n")
    except OSError as error:
        log.warning("%s cannot be written (%s), so modules are measured again next time", path, error.strerror)
