"""What a tie could hide: the difference that such a study would have found in four of five cases."""

import numpy as np
import pytest

from mtdiff.results.intervals import Difference, Interval, paired_difference
from mtdiff.results.ranking import rank_column
from mtdiff.results.render import list_notes
from mtdiff.results.table import Cell, Column, Cost, Line, Table

SEEDS, EXAMPLES = 3, 64


def draw_scores(rng: np.random.Generator, difference: float) -> Difference:
    """Two methods whose true difference is known, on examples and seeds of an own difficulty each."""
    parts = (rng.normal(size=(SEEDS, 1)), 2 * rng.normal(size=(1, EXAMPLES)), 4 * rng.normal(size=(SEEDS, EXAMPLES)))
    scores = 0.02 * sum(parts)
    return paired_difference(scores + difference, np.zeros_like(scores), rng)


def test_a_difference_of_that_size_is_found_in_four_of_five_studies() -> None:
    rng = np.random.default_rng(0)
    sizes = [draw_scores(rng, 0.0).detectable for _ in range(300)]
    size = float(np.median([s for s in sizes if s is not None]))
    found = np.mean([draw_scores(rng, size).p < 0.05 for _ in range(600)])
    assert 0.7 < found < 0.9
    assert np.mean([draw_scores(rng, size / 2).p < 0.05 for _ in range(600)]) < 0.5


@pytest.mark.parametrize("apart", [0.0, 1.0])
def test_a_tie_says_what_it_could_hide_and_a_loss_does_not(apart: float) -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(2, SEEDS, EXAMPLES))
    scores[1] += apart
    cells = [
        Cell(Interval(float(s.mean())), SEEDS, EXAMPLES, scores={k: row.tolist() for k, row in enumerate(s)})
        for s in scores
    ]
    column = Column("edit", "psnr", "lower")
    ranked = rank_column(cells, column)
    ties = [cell for cell in ranked if cell.tied]
    assert len(ties) == (apart == 0)
    assert all(cell.detectable is not None and 0.1 < cell.detectable < 1 for cell in ties)
    notes = list_notes(Table([column], [Line(str(k), [cell], Cost()) for k, cell in enumerate(ranked)], []))
    assert len(notes) == (apart == 0)
    assert all("edit psnr 0." in note for note in notes)
