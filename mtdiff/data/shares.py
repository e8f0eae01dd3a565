"""Shares of kinds in an endless order, as counts in a short cycle. No torch here."""

from collections.abc import Mapping
from math import isfinite

LONGEST = 100
"""Cycles are at most this long."""
TOLERANCE = 0.01
"""Shares are kept to this relative error."""
FINE = 1000
"""Length of a cycle for shares that a data set has, and nobody chose."""


def cycle_counts(weights: Mapping[str, float]) -> list[int]:
    """How often each kind comes in the shortest cycle that keeps every share to 1 % of itself.

    Weights 1, 1, 2 give 1, 1, 2; weights 0.3, 0.7 give 3, 7. ValueError where no cycle of up to 100 will do.
    """
    check(weights)
    total = sum(weights.values())
    for length in range(len(weights), LONGEST + 1):
        exact = [weight / total * length for weight in weights.values()]
        counts = [round(count) for count in exact]
        if sum(counts) == length and all(abs(c - e) <= TOLERANCE * e for c, e in zip(counts, exact, strict=True)):
            return counts
    raise ValueError(f"weights={dict(weights)!r}: expected shares within 1 % of whole counts out of {LONGEST} or fewer")


def fine_counts(weights: Mapping[str, float]) -> list[int]:
    """How often each kind comes in a cycle of FINE: at least once, else to the nearest count (largest remainders)."""
    check(weights)
    if len(weights) == 1:
        return [1]
    total = sum(weights.values())
    exact = [weight / total * FINE for weight in weights.values()]
    counts = [max(1, int(e)) for e in exact]
    for k in sorted(range(len(exact)), key=lambda k: int(exact[k]) - exact[k])[: max(0, FINE - sum(counts))]:
        counts[k] += 1
    return counts


def check(weights: Mapping[str, float]) -> None:
    for name, weight in weights.items():
        if not isfinite(weight) or weight <= 0:
            raise ValueError(f"weights[{name!r}]={weight!r}: expected a finite number above 0")
