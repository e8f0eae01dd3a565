"""A run that goes on with another run's adapter, also with other tasks (`init_from`).

What tasks share is taken as it is. What belongs to a task, a row of a tensor whose first axis is the task, goes to the
task of the same name; a task that is new starts as the method starts it, and one that is gone leaves its rows behind.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mtdiff.backbones.base import Backbone
from mtdiff.config.schema import construct
from mtdiff.errors import shown
from mtdiff.model.denoiser import Denoiser
from mtdiff.provenance import hash_weights
from mtdiff.runs.adapter import About, check_base
from mtdiff.runs.load import check_adapter, plan_adapter, read_adapter


def read_earlier(about: About, base: Backbone) -> dict[str, Tensor]:
    """The adapter of the earlier run. base: untouched; its weights must be those that the adapter was trained on."""
    check_base(about, hash_weights(base.parameters()))
    shapes = plan_adapter(base, about)
    check_adapter(about.weights, shapes, about.digest)
    return read_adapter(about.weights, shapes, about.digest)


def check_found(about: About, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse data whose labels are others than those that the earlier run knew. found: options by task."""
    for name, options in found.items():
        there = about.content["task"].get(name, {}) if name in about.tasks else {}
        for key, value in options.items():
            if key in there and list(there[key]) != list(value):
                raise ValueError(
                    f"init_from: task.{name}.{key} of this data are not those of {about.path}, {shown(there[key], 80)}"
                )


@torch.no_grad()
def continue_adapter(denoiser: Denoiser, about: About, earlier: Mapping[str, Tensor]) -> dict[str, Any]:
    """Load an earlier run's tensors. Returns what `result.json` says of it. ValueError where they do not fit."""
    own = denoiser.adapter()
    rows = {id(p) for p in denoiser.method.task_parameters(denoiser.backbone)}
    taskwise = {name for name, p in denoiser.backbone.denoiser.named_parameters() if id(p) in rows}
    odd = sorted(set(earlier) - set(own)) or sorted(set(own) - set(earlier) - taskwise)
    if odd:
        raise ValueError(
            f"init_from: {about.path.parent} with tasks {', '.join(about.tasks)} and this run with "
            f"{', '.join(denoiser.tasks)} do not train the same tensors, first {odd[0]}"
        )
    places = [(denoiser.tasks.index(name), k) for k, name in enumerate(about.tasks) if name in denoiser.tasks]
    for name in set(own) & set(earlier):
        old, new = earlier[name], own[name]
        if name in taskwise and old.shape[1:] == new.shape[1:]:
            for here, there in places:
                new[here] = old[there]
        elif old.shape == new.shape:
            new.copy_(old)
        else:
            raise ValueError(f"init_from: {name} has shape {tuple(old.shape)}, expected {tuple(new.shape)}")
    return {
        "run": about.path.parent.name,
        "adapter": hashlib.sha256(about.weights.read_bytes()).hexdigest(),
        "tasks": list(about.tasks),
        "seed": about.content.get("seed"),
        "new_tasks": [name for name in denoiser.tasks if name not in about.tasks],
        "tasks_left": [name for name in about.tasks if name not in denoiser.tasks],
    }


def continue_run(
    denoiser: Denoiser, about: About, node: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Put an earlier run's adapter into a new denoiser. node: of the base, which is read once more."""
    check_found(about, found)
    return continue_adapter(denoiser, about, read_earlier(about, construct(node)))
