"""Randomness as a pure function of names: no state, so workers, ranks and resumption change nothing."""

import hashlib

import numpy as np
import torch


def number(*key: int | str) -> int:
    """64 bits that depend on the key alone."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, key)).encode()).digest()[:8], "little")


def numpy_rng(*key: int | str) -> np.random.Generator:
    """A NumPy generator that depends on the key alone, e.g. `numpy_rng(seed, "train", "edit", epoch, index)`."""
    return np.random.default_rng(number(*key))


def torch_rng(*key: int | str) -> torch.Generator:
    """The same for torch, on the CPU (whose streams are the same on every machine)."""
    return torch.Generator().manual_seed(number(*key) >> 1)
