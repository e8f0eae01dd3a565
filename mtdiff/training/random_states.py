"""The random states of a process, which a checkpoint holds, so that a training goes on with the numbers that follow."""

import random
from typing import Any

import numpy as np
import torch
from torch import distributed


def seed_everywhere(seed: int) -> None:
    """torch, NumPy, Python: a process that starts again before its first checkpoint draws what the first one drew."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


def read_random_state() -> dict[str, Any]:
    """The random states of torch, NumPy and Python, as plain numbers and tensors."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002 (the global state is what is kept)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))


def gather_states(state: dict[str, Any]) -> list[dict[str, Any]]:
    if not distributed.is_initialized():
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states
