"""Drawings that inherit features against the whole drawing, at any size: denoiser alone, one guided picture.

Every turn computes each kind of step once, and a drawing is the sum over its steps: so networks whose drawing takes
minutes are measured too.
"""

from collections.abc import Mapping
from dataclasses import replace

import torch

from benchmarks.timing import Bar, Comparison, How, take_turns
from mtdiff.backbones.base import Backbone
from mtdiff.costs.drawing import guide_task
from mtdiff.costs.flops import count_flops, device_of, encode_prompt, make_inputs
from mtdiff.costs.measure import materialise
from mtdiff.methods.untouched import Untouched
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.inheritance import Inheritance, Store
from mtdiff.model.painter import Painter
from mtdiff.model.sampling import Guidance
from mtdiff.types import Text

TASK = "text_to_image"
EVERY = (2, 3, 5)
BARE = Inheritance(
    level="block", every=2, start=None, until=0, spacing="uniform", units=("self_attention", "cross_attention", "ffn")
)


def compare_inheriting(
    base: Backbone, steps: int, guidance: Mapping[str, Guidance], how: How, turns: int
) -> Comparison:
    """Each level at every 2, 3 and 5. base: one of shapes alone gets random weights."""
    denoiser = Denoiser(base, Untouched(), [TASK]).eval()
    if device_of(base).type == "meta":
        materialise(denoiser, how.device, torch.float32)
    base.denoiser.to(how.device)
    whole = Painter(denoiser=denoiser, guidance=guidance, sampler="ddim", steps=steps)
    rules = {(level, n): replace(BARE, level=level, every=n) for level in base.levels for n in EVERY}
    plans = {f"{level} every {n}": (level, replace(whole, inherit=rule).plan()) for (level, n), rule in rules.items()}
    text = encode_prompt(base)
    empty = Text(torch.zeros_like(text.tokens), {k: torch.zeros_like(v) for k, v in text.extra.items()})
    rows = guide_task(whole, text, empty, source=False, task=0)
    noisy, t = make_inputs(base, rows)

    def call(store: Store, keep: bool, inherits: bool) -> None:
        with how.autocast(), torch.inference_mode():
            store(noisy, t, rows, whole=not inherits, keep=keep)

    stores = {level: Store(denoiser, replace(BARE, level=level)) for level in base.levels}
    calls = {"whole": lambda: call(next(iter(stores.values())), False, False)}
    for level, store in stores.items():  # in this order: an inheriting call follows one that keeps
        calls[f"{level} kept"] = lambda store=store: call(store, True, False)  # type: ignore[misc]
        calls[level] = lambda store=store: call(store, True, True)  # type: ignore[misc]
    times = take_turns(calls, how, how.turns(turns))
    flops = {name: count_flops(denoiser, calls[name]).total for name in calls}
    seconds = {"whole": [steps * s for s in times["whole"]]}
    counts = {}
    for name, (level, plan) in plans.items():
        kinds = ["whole" if s.whole and not s.keep else f"{level} kept" if s.whole else level for s in plan]
        seconds[name] = [sum(times[kind][turn] for kind in kinds) for turn in range(len(times["whole"]))]
        counts[f"flops {name}"] = sum(flops[kind] for kind in kinds) / (steps * flops["whole"])
    bars = tuple(Bar(name, "whole", "speed") for name in plans)
    return Comparison("inherit", f"one picture, {steps} steps x {len(rows)} predictions", seconds, bars, counts)
