"""Shares of kinds in an endless order, as counts in a short cycle. No torch here."""

from collections.abc import Mapping
from math import isfinite

LONGEST = 100
"""Cycles are at most this long."""
TOLERANCE = 0.01
"""Shares are kept to this relative error."""


def cycle_counts(weights: Mapping[str, float]) -> list[int]:
    """How often each kind comes in the shortest cycle that keeps every share to 1 % of itself.

    Weights 1, 1, 2 give 1, 1, 2; weights 0.3, 0.7 give 3, 7. ValueError where no cycle of up to 100 will do.
    """
    for name, weight in weights.items():
        if not isfinite(weight) or weight <= 0:
            raise ValueError(f"weights[{name!r}]={weight!r}: expected a finite number above 0")
    total = sum(weights.values())
    for length in range(len(weights), LONGEST + 1):
        exact = [weight / total * length for weight in weights.values()]
        counts = [round(count) for count in exact]
        if sum(counts) == length and all(abs(c - e) <= TOLERANCE * e for c, e in zip(counts, exact, strict=True)):
            return counts
    raise ValueError(f"weights={dict(weights)!r}: expected shares within 1 % of whole counts out of {LONGEST} or fewer")
