"""More than four tasks: each task's first metric by how many tasks are learnt, the routers, and who starves."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import mean
from typing import Any

from mtdiff.results.protocol import every_option
from mtdiff.results.questions.tables import Groups, build_table, list_table_lines
from mtdiff.results.record import Result
from mtdiff.results.render import number
from mtdiff.results.study import Run, Study, blank_odd_rows, setup
from mtdiff.results.table import Cell, Column, Table

METHODS = ("mtu", "lora_ffn", "finetune")
TASK_SETS = (2, 4, 7, 10)
MERGE_HEAD = ("merger", "scale, chosen on validation", "seconds to merge", "MB of adapters held")


@dataclass(frozen=True)
class Mixer:
    """The routers of one run. entropy: of the weights, as a share of an even mix's, mean over blocks and tasks.
    distance: between two tasks' weights, half the sum of absolute differences, mean over blocks and pairs of tasks."""

    run: Result
    entropy: float
    distance: float


def nest_tasks(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Sets of tasks that lie in each other, the smallest first, up to the largest that complete runs learn."""
    every = {tuple(run.result.tasks) for run in runs if run.result.status == "complete"}
    chain: list[tuple[str, ...]] = []
    for tasks in sorted((t for t in every if len(t) in TASK_SETS), key=len, reverse=True):
        if not chain or (set(tasks) < set(chain[-1]) and tasks == chain[-1][: len(tasks)]):
            chain.append(tasks)
    return chain[::-1]


def select_company(runs: Sequence[Run]) -> dict[tuple[str, int], list[Run]]:
    """Complete runs on nested sets of tasks, all of one budget, by name and number of tasks. Empty without a set that
    is larger than the four tasks.

    Of each method its plain variant, of MTU every number of experts.
    """
    chain = nest_tasks(runs)
    if not chain or len(chain[-1]) <= 4:
        return {}
    budget = next(setup(run.result) for run in runs if tuple(run.result.tasks) == chain[-1])
    found: dict[tuple[str, int], list[Run]] = defaultdict(list)
    for run in runs:
        result = run.result
        alike = result.status == "complete" and tuple(result.tasks) in chain and setup(result) == budget
        if alike and (name := name_plain(result)) is not None:
            found[name, len(result.tasks)].append(run)
    return dict(found)


def name_plain(result: Result) -> str | None:
    """`mtu, 4 experts`, `lora_ffn`; None for other methods and for variants."""
    if result.method not in METHODS:
        return None
    told = every_option(result)
    variants = {"method.top_k": None, "method.rescale": True, "method.norm_rate": 1, "method.start": "slices"}
    variants |= {"method.per_task": True, "balancing.pcgrad": False}
    weighting = str(told.get("balancing.weighting._target_", "Uniform"))
    if any(told.get(key, value) != value for key, value in variants.items()) or not weighting.endswith("Uniform"):
        return None
    experts = told.get("method.experts")
    return result.method if experts is None else f"{result.method}, {experts} expert{'s' if experts != 1 else ''}"


def summarise_company(runs: Sequence[Run]) -> Table:
    """First metrics of the tasks that are in every set, a line for each method and number of tasks."""
    found = select_company(runs)
    every = blank_odd_rows([run for part in found.values() for run in part])
    first = nest_tasks([run for part in found.values() for run in part])
    columns = [c for c in Study(every).headlines if c.task in first[0]] if first else []
    groups: Groups = {f"{name}, {number} tasks": [r.result for r in part] for (name, number), part in found.items()}
    return build_table(groups, columns)


def list_company_cells(runs: Sequence[Run]) -> dict[Column, dict[tuple[str, int], Cell]]:
    """The first metric of every task of the largest set, by name and number of tasks."""
    found = select_company(runs)
    every = blank_odd_rows([run for part in found.values() for run in part])
    table = build_table(
        {repr(key): [run.result for run in part] for key, part in found.items()}, Study(every).headlines
    )
    lines = dict(zip(found, table.lines, strict=True))
    return {column: {key: line.cells[i] for key, line in lines.items()} for i, column in enumerate(table.columns)}


def measure_mixer(result: Result) -> Mixer | None:
    """None for a run without routers, or of one expert."""
    router: Mapping[str, Mapping[str, Sequence[float]]] = result.method_report.get("router") or {}
    weights = [list(row.values()) for row in router.values()]  # blocks, tasks, experts
    if not weights or len(weights[0][0]) < 2:
        return None
    entropies = [-sum(x * log(x) for x in w if x > 0) / log(len(w)) for block in weights for w in block]
    pairs = [(a, b) for block in weights for i, a in enumerate(block) for b in block[:i]]
    distances = [sum(abs(x - y) for x, y in zip(a, b, strict=True)) / 2 for a, b in pairs]
    return Mixer(result, mean(entropies), mean(distances) if distances else 0.0)


def list_mixers(runs: Sequence[Run]) -> dict[tuple[str, int], list[Mixer]]:
    """By name and number of tasks."""
    found = {key: [measure_mixer(run.result) for run in part] for key, part in select_company(runs).items()}
    kept = {key: [mixer for mixer in part if mixer is not None] for key, part in found.items()}
    return {key: part for key, part in kept.items() if part}


def list_starvation(runs: Sequence[Run]) -> Iterator[tuple[str, str, float, float | None]]:
    """Of the largest set of tasks: method, task, and mean over seeds of how much of the first validation error is left
    at the end and of the task's share of all gradient lengths at the end."""
    found = select_company(runs)
    most = max((number for _, number in found), default=0)
    for (name, number_of_tasks), part in found.items():
        if number_of_tasks == most:
            for task in part[0].result.tasks:
                rows = [run.result.starvation for run in part]
                left = [x for row in rows if (x := find_left(row.get(task))) is not None]
                shares = [x for row in rows if (x := find_share(row, task)) is not None]
                if left:
                    yield name, task, mean(left), mean(shares) if shares else None


def find_left(row: Any) -> float | None:
    ends = (row or {}).get("validation") or {}
    first, last = ends.get("first"), ends.get("last")
    return last / first if first and last is not None else None


def find_share(rows: Mapping[str, Any], task: str) -> float | None:
    lengths = {name: ((row or {}).get("gradient") or {}).get("last") for name, row in rows.items()}
    known = {name: value for name, value in lengths.items() if value is not None}
    return known[task] / sum(known.values()) if task in known and sum(known.values()) else None


def list_company_lines(runs: Sequence[Run]) -> Iterator[str]:
    """The table, the routers, and who starves; nothing without runs of more than four tasks."""
    table = summarise_company(runs)
    if not table.lines:
        return
    yield from list_table_lines(table, "company")
    yield "| routers | entropy, of an even mix's | distance between tasks | runs |"
    yield "|---|---|---|---|"
    for (name, tasks), part in list_mixers(runs).items():
        entropy, distance = mean(m.entropy for m in part), mean(m.distance for m in part)
        yield f"| {name}, {tasks} tasks | {entropy:.3f} | {distance:.3f} | {len(part)} |"
    yield ""
    yield "| who starves | task | validation error left | share of the gradients |"
    yield "|---|---|---|---|"
    for name, task, left, share in list_starvation(runs):
        yield f"| {name} | {task} | {left:.0%} | {'' if share is None else f'{share:.0%}'} |"


def list_merged(study: Study) -> Groups:
    """Models of single tasks, joint ones and mergers on all tasks of a study, by name."""
    groups: dict[str, list[Result]] = defaultdict(list)
    for run in study.complete:
        result, rule = run.result, run.result.method_report.get("merge") or {}
        plain = name_plain(result) if not result.parts else None
        single, whole = len(result.tasks) == 1, set(result.tasks) == set(study.tasks)
        if result.parts and whole and rule:
            groups[f"{result.parts[0]['method']}, merged by {rule.get('name')}"].append(result)
        elif plain is not None and (whole or (single and plain != "mtu, 4 experts")):
            groups[f"{plain}, {'a model a task' if single else 'jointly'}"].append(result)
    names = {name.split(", merged")[0] for name in groups if ", merged" in name}
    return {n: part for n, part in sorted(groups.items()) if n.split(",")[0] in names}


def summarise_merged(study: Study) -> Table:
    """First metrics of merged, joint and single-task models; empty without a merger."""
    return build_table(list_merged(study), [Column(c.task, c.metric, c.direction) for c in study.headlines])


def list_merged_lines(study: Study) -> Iterator[str]:
    """The table, then what merging took; nothing without a merger."""
    table = summarise_merged(study)
    if not table.lines:
        return
    yield from list_table_lines(table, "merged")
    yield f"| {' | '.join(MERGE_HEAD)} |"
    yield "|---|---|---|---|"
    for row in list_merge_costs(study):
        yield f"| {' | '.join(row)} |"


def list_merge_costs(study: Study) -> Iterator[list[str]]:
    """Of each merger the scales that were chosen, a seed each, and what it took; under MERGE_HEAD."""
    for name, part in list_merged(study).items():
        rules = [r.method_report["merge"] for r in part if r.method_report.get("merge")]
        if rules:
            scales = ", ".join(f"{rule['scale']:g}" for rule in rules)
            memory = [rule["memory_mb"] for rule in rules if rule.get("memory_mb") is not None]
            seconds = f"{mean(rule['seconds']['merge'] for rule in rules):.2f}"
            yield [name, scales, seconds, number(mean(memory)) if memory else ""]
