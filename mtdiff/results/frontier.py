"""Which points of cost and quality nothing dominates. No torch here."""

from collections.abc import Sequence


def find_undominated(points: Sequence[tuple[float, float]]) -> list[int]:
    """Places of the points (cost, quality) that are better than all that cost no more, by rising cost."""
    kept: list[int] = []
    for k in sorted(range(len(points)), key=lambda k: (points[k][0], -points[k][1])):
        if not kept or points[k][1] > points[kept[-1]][1]:
            kept.append(k)
    return kept
