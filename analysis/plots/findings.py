"""What each notebook found, in one sentence made of the results themselves: other results, another sentence."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from mtdiff.results.changes import find_yardstick, list_changes
from mtdiff.results.frontier import find_undominated
from mtdiff.results.questions.claims import CLAIMS, choose_judged
from mtdiff.results.study import Study
from mtdiff.results.summary import summarise
from mtdiff.results.table import Column, Table
from mtdiff.results.variants import methods, select_ablation, select_main

from .blocks import select_reporting
from .deviation import read_component, read_deviation

NOTHING = "The results do not tell."


def join_names(names: list[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), *names[-1:]) if part)


def describe_best(table: Table, column: Column) -> str | None:
    """`edit: mtu (a tie with ia3)`; None where fewer than two lines have a value."""
    i = table.columns.index(column)
    best = [line.label for line in table.lines if line.cells[i].best]
    tied = [line.label for line in table.lines if line.cells[i].tied]
    if not best:
        return None
    return f"{column.task}: {join_names(best)}" + (f" (a tie with {join_names(tied)})" if tied else "")


def find_best(study: Study) -> str:
    """Which method leads each task by its first metric, and who is not surely worse."""
    part = select_main(study)
    return list_best(part) or NOTHING


def list_best(part: Study) -> str:
    table = summarise(part.results)
    found = [describe_best(table, column) for column in part.headlines if column in table.columns]
    known = [text for text in found if text]
    return f"Best by the first metric: {'; '.join(known)}." if known else ""


def find_best_experts(study: Study) -> str:
    """Which number of experts leads each task."""
    return list_best(select_ablation(study, "mtu", "method.experts")) or NOTHING


def find_frontier(study: Study) -> str:
    """Which methods nothing dominates in each task, at the parameters that serve all tasks."""
    part = select_main(study)
    table = summarise(part.results)
    lines = [line for line in table.lines if not line.reference]
    told = []
    for column in (c for c in part.headlines if c in table.columns):
        i, sign = table.columns.index(column), 1 if column.direction == "higher" else -1
        known = [(line.cost.total_for_all_tasks, line.cells[i].interval, line.label) for line in lines]
        points = [(cost, sign * at.value, label) for cost, at, label in known if cost is not None and at is not None]
        kept = [points[k][2] for k in find_undominated([(cost, value) for cost, value, _ in points])]
        told += [f"{column.task}: {join_names(kept)}"] if kept else []
    return f"At the parameters to serve all tasks nothing dominates {'; '.join(told)}." if told else NOTHING


def find_routing(study: Study) -> str:
    """How far from an even mix the routers went."""
    runs = select_reporting(select_main(study), "router")
    weights = [w for run in runs for tasks in run.result.method_report["router"].values() for w in tasks.values()]
    far = [max(abs(x * len(w) - 1) for x in w) for w in weights]
    if not far:
        return NOTHING
    middle = float(np.median(far))
    return f"From an even mix, weights differ by {max(far):.0%} at most, in the median block and task by {middle:.0%}."


def find_movers(study: Study) -> str:
    """Which component each method moves most."""
    told = []
    for method in methods(study):
        runs = [r for r in select_main(study).complete if r.result.method == method and read_deviation(r)]
        names = {name for run in runs for parts in read_deviation(run)["tasks"].values() for name in parts}  # type: ignore[index]
        means = {name: float(np.mean([read_component(run, name) for run in runs])) for name in sorted(names)}
        known = {name: value for name, value in means.items() if value == value}
        told += [f"{max(known, key=lambda name: known[name])} under {method}"] if known else []
    return f"What moves most is {join_names(told)}." if told else NOTHING


def find_answers(study: Study) -> str:
    """How many claims hold, fail and stay open."""
    chosen, judged = choose_judged(study.every)
    verdicts = Counter(claim.judge(chosen, judged).verdict for claim in CLAIMS)
    told = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())
    return f"Of {len(CLAIMS)} claims: {told}."


def find_company(study: Study) -> str:
    """How many tasks gain from company, and how many lose."""
    surely = list(list_sure_changes(study))
    if not surely:
        return NOTHING
    gains = sum(value > 0 for value in surely)
    return f"Of {len(surely)} sure changes (5 %), {gains} are gains from company and {len(surely) - gains} are losses."


def list_sure_changes(study: Study) -> Iterator[float]:
    """Changes of every method on all tasks against single-task models whose interval leaves out zero."""
    against = find_yardstick(study)
    for method in methods(study) if against is not None else ():
        for change in list_changes(study, method, str(against)):
            interval = change.interval
            if interval is None or interval.low is None or interval.high is None:
                continue
            if len(change.tasks) == len(study.tasks) and (interval.low > 0 or interval.high < 0):
                yield interval.value
