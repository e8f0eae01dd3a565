"""Which line of a column is best, and which are not significantly worse than it."""

import math
from collections.abc import Sequence
from dataclasses import replace

from mtdiff.results.intervals import Interval
from mtdiff.results.paired import compare_paired
from mtdiff.results.record import Direction
from mtdiff.results.table import Cell, Column, Line


def is_surely_worse(cell: Interval, best: Interval, direction: Direction) -> bool | None:
    """Does the interval of the difference leave out zero? None where an interval is missing.

    The two intervals are joined as independent ones (Zou & Donner, Statistics in Medicine 2008). On shared examples
    that is conservative; `mtdiff.results.paired` finds more differences, where the results carry the scores themselves.
    """
    if cell.low is None or cell.high is None or best.low is None or best.high is None:
        return None
    if direction == "higher":
        return best.value - cell.value > math.hypot(best.value - best.low, cell.high - cell.value)
    return cell.value - best.value > math.hypot(best.high - best.value, cell.value - cell.low)


def rank_lines(lines: Sequence[Line], columns: Sequence[Column]) -> list[Line]:
    """Mark the best of each column that at least two lines have, and those not significantly worse."""
    ranked = [rank_column([line.cells[i] for line in lines], column) for i, column in enumerate(columns)]
    return [replace(line, cells=[column[i] for column in ranked]) for i, line in enumerate(lines)]


def rank_column(cells: Sequence[Cell], column: Column) -> list[Cell]:
    intervals = [cell.interval for cell in cells if cell.interval is not None]
    if len(intervals) < 2:
        return list(cells)
    sign = 1 if column.direction == "higher" else -1
    first = max(intervals, key=lambda interval: sign * interval.value)
    best = next(cell for cell in cells if cell.interval is first)

    def mark_cell(cell: Cell) -> Cell:
        if cell.interval is None:
            return cell
        if cell.interval.value == first.value:
            return replace(cell, best=True)
        return mark_tie(cell, best, column.direction)

    return [mark_cell(cell) for cell in cells]


def mark_tie(cell: Cell, best: Cell, direction: Direction) -> Cell:
    """Whether a cell ties with the best: by the paired test on the same examples where there are scores, else by the
    intervals. With the difference that such a test could have shown.
    """
    found = compare_paired(cell.scores, best.scores)
    if found is not None:
        return replace(cell, tied=True, detectable=found.detectable) if found.p >= 0.05 else cell
    assert cell.interval is not None
    assert best.interval is not None
    return replace(cell, tied=is_surely_worse(cell.interval, best.interval, direction) is False)
