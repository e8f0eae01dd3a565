"""Pictures as degradations take them: (H, W, 3) float32 in [0, 1]."""

import numpy as np


def generator(seed=0):
    return np.random.default_rng(seed)


def picture(height=64, width=64, seed=0):
    """Smooth waves in three colours with some fine grain."""
    y, x = np.mgrid[:height, :width] / 64
    waves = [np.sin(9 * x + 4 * y), np.cos(7 * y * x + 1), np.sin(5 * y - 11 * x)]
    grain = 0.05 * generator(seed).standard_normal((height, width, 3))
    return np.clip(0.5 + 0.4 * np.stack(waves, -1) + grain, 0, 1).astype(np.float32)


def flat(value, side=160):
    return np.full((side, side, 3), value, np.float32)
