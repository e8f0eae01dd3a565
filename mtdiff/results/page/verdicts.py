"""What a study says of each task in one sentence: who is best, who ties, how that stands to the references."""

from collections.abc import Sequence
from dataclasses import dataclass

from mtdiff.results.ranking import is_surely_worse
from mtdiff.results.render import ARROWS, number
from mtdiff.results.table import Cell, Column, Line, Table, find_power


@dataclass(frozen=True)
class Verdict:
    """lead: the sentence on the methods. asides: how the best stands to each reference. tie: several share the lead."""

    task: str
    lead: str
    asides: Sequence[str]
    tie: bool


def judge_task(table: Table, column: Column) -> Verdict:
    """The verdict of a column, in words. Of lines that tie with the best, none is called the winner."""
    i = table.columns.index(column)
    measure = f"{column.metric} {ARROWS[column.direction]}"
    ours = [line for line in table.lines if not line.reference and line.cells[i].interval is not None]
    if not ours:
        return Verdict(column.task, f"No complete run has a value of {measure}.", (), False)
    best = next((line for line in ours if line.cells[i].best), ours[0])
    tied = [line for line in ours if line is not best and (line.cells[i].tied or line.cells[i].best)]
    unsure = [line for line in ours if line.cells[i].interval is not None and lacks_interval(line.cells[i])]
    lead = f"{measure}: {describe_line(best, i)}"
    if len(ours) == 1:
        lead += ", the one line with a value."
    elif tied:
        lead = f"{measure}: a tie. {describe_line(best, i)} leads; not significantly worse: "
        power = find_power(table, column)
        lead += ", ".join(describe_line(line, i) for line in tied)
        lead += "." if power is None else f"; four of five such studies would find a difference of {number(power)}."
    elif unsure:
        lead += " has the best value; whether that is chance cannot be said, since intervals are missing."
    else:
        lead += f" is best of {len(ours)}; all others are significantly worse."
    return Verdict(column.task, lead, list_asides(table, column, best), bool(tied))


def lacks_interval(cell: Cell) -> bool:
    return cell.interval is None or cell.interval.low is None


def describe_line(line: Line, i: int) -> str:
    """`mtu 0.271 [0.262, 0.280] (3 seeds x 64 examples)`."""
    cell = line.cells[i]
    assert cell.interval is not None
    low, high = cell.interval.low, cell.interval.high
    bounds = "" if low is None or high is None else f" [{number(low)}, {number(high)}]"
    seeds = f"{cell.seeds} seed{'s' if cell.seeds != 1 else ''}"
    return f"{line.label} {number(cell.interval.value)}{bounds} ({seeds}, n = {cell.n})"


def list_asides(table: Table, column: Column, best: Line) -> list[str]:
    """Each reference beside the best line, by their intervals taken as independent."""
    i = table.columns.index(column)
    asides = []
    for line in table.lines:
        reference, own = line.cells[i].interval, best.cells[i].interval
        if line.reference and reference is not None and own is not None:
            behind = is_surely_worse(own, reference, column.direction)
            ahead = is_surely_worse(reference, own, column.direction)
            word = "better than" if ahead else "worse than" if behind else "not told apart from"
            asides.append(f"{word} {line.label} ({number(reference.value)})")
    return asides
