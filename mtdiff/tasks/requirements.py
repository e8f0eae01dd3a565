"""What a degradation asks of its arguments: one line that names the argument, its value and what is allowed."""

from collections.abc import Sequence
from math import isclose

from mtdiff.tasks.corruptions import Picture


def require(valid: bool, name: str, value: object, allowed: str) -> None:
    if not valid:
        raise ValueError(f"{name} is {value!r}; allowed: {allowed}")


def require_number(name: str, value: float, low: float, high: float) -> None:
    require(low <= value <= high, name, value, f"a number in [{low:g}, {high:g}]")


def require_limits(name: str, limits: Sequence[float], low: float, high: float) -> None:
    ordered = len(limits) == 2 and low <= limits[0] <= limits[1] <= high
    require(ordered, name, limits, f"two ascending numbers in [{low:g}, {high:g}]")


def require_odds(name: str, odds: Sequence[float], count: int) -> None:
    valid = len(odds) == count and min(odds) >= 0 and isclose(sum(odds), 1.0, abs_tol=1e-6)
    require(valid, name, odds, f"{count} probabilities that sum to 1")


def require_whole(name: str, value: object) -> None:
    require(isinstance(value, int) and value >= 1, name, value, "a whole number from 1")


def require_picture(image: Picture, scale: int) -> None:
    dtype = str(getattr(image, "dtype", type(image)))
    require(dtype == "float32", "image's dtype", dtype, "float32")
    fits = image.ndim == 3 and image.shape[2] == 3 and image.size > 0
    fits = fits and not (image.shape[0] % scale or image.shape[1] % scale)
    require(fits, "image's shape", image.shape, f"(H, W, 3), H and W multiples of scale={scale}")
    low, high = float(image.min()), float(image.max())
    require(low >= 0 and high <= 1, "image's range", (low, high), "values in [0, 1]")
