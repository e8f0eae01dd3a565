"""LoRA adapters of several trainings as one, by `peft`'s `add_weighted_adapter`.

average and task arithmetic are exact: the merged rank is the sum of the ranks (`cat`). ties and dare change the
products B A, which are brought back to that rank by their singular values (`ties_svd`, `dare_linear_svd`).
"""

from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, LoraModel
from torch import Tensor, nn

from mtdiff.methods.merging import Rule
from mtdiff.rng import number

KINDS = {"average": "cat", "task_arithmetic": "cat", "ties": "ties_svd", "dare": "dare_linear_svd"}
A, B = ".lora_a", ".lora_b"


@torch.no_grad()
def merge_lora(start: Mapping[str, Tensor], trained: Sequence[Mapping[str, Tensor]], rule: Rule) -> dict[str, Tensor]:
    """Every `x.lora_a` (1, r, I) and `x.lora_b` (1, O, r) of `start` from those of the trainings, whose alpha is r."""
    layers = [name.removesuffix(A) for name in start if name.endswith(A)]
    merged: dict[str, Tensor] = {}
    for layer in layers:
        pairs = [(t[layer + A][0], t[layer + B][0]) for t in trained]
        a, b = merge_layer(pairs, rule, layer)
        merged |= {layer + A: a[None], layer + B: b[None]}
    return merged


def merge_layer(pairs: Sequence[tuple[Tensor, Tensor]], rule: Rule, key: str) -> tuple[Tensor, Tensor]:
    """A (n r, I) and B (O, n r) from the n pairs of one layer, A (r, I) and B (O, r)."""
    (rank, width), out = pairs[0][0].shape, len(pairs[0][1])
    names = [f"part{i}" for i in range(len(pairs))]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=["layer"])
    layer = nn.ModuleDict({"layer": nn.Linear(width, out, bias=False)})
    model = LoraModel(layer, {names[0]: config}, names[0])
    for name in names[1:]:
        model.peft_config[name] = config
        model.inject_adapter(model.model, name)
    target = model.model["layer"]
    for name, (a, b) in zip(names, pairs, strict=True):
        target.lora_A[name].weight.copy_(a)
        target.lora_B[name].weight.copy_(b)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(number(rule.seed, "dare", key) >> 1)
        model.add_weighted_adapter(
            names,
            rule.weights(len(names)),
            "merged",
            KINDS[rule.name],
            svd_rank=rank * len(names),
            svd_full_matrices=False,
            density=rule.density,
        )
    a, b = (side["merged"].weight.detach() for side in (target.lora_A, target.lora_B))
    missing = rank * len(names) - len(a)  # singular values are no more than the layer is wide
    return nn.functional.pad(a, (0, 0, 0, missing)), nn.functional.pad(b, (0, missing))
