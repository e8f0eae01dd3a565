"""Reference pictures (EMMA): single modules, their sums, one trained jointly, IP-Adapter, and ablations of the gate.

The promise to test: a sum of modules that were trained apart keeps at least KEPT of what each of them gains over the
text alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mtdiff.results.intervals import Interval
from mtdiff.results.paired import compare_paired
from mtdiff.results.protocol import every_option
from mtdiff.results.questions.compare import Verdict, judge_interval
from mtdiff.results.questions.tables import Groups, build_table, find_columns, list_table_lines
from mtdiff.results.record import Result, Row
from mtdiff.results.render import number
from mtdiff.results.table import Column, Table

TASK, BASE = "reference", "base"
KEPT = 0.8
MEASURES = {"object": "own_of_200", "style": "style_accuracy", "tone": "clip_image_similarity"}
"""What each reference is to bring, by the beginning of its metric's name; decided before any run."""
PUBLISHED = "Published for style, CLIP-T / CLIP-I on COCO: .594 / .860 with a gate for each token, .572 / .834 without."


@dataclass(frozen=True)
class Kept:
    """What a sum keeps of one module's gain. share: of the gain, null where the module gains nothing. beyond: by how
    much the sum is ahead of KEPT of the gain, paired over examples and seeds."""

    parts: Sequence[str]
    reference: str
    column: Column
    gain: float
    share: float | None
    beyond: Interval

    @property
    def verdict(self) -> Verdict:
        return judge_interval(self.beyond)


def list_names(run: Result) -> tuple[str, ...]:
    """The references that a run's method reads."""
    names = (run.config.get("method") or {}).get("references")
    return tuple(names) if isinstance(names, list | tuple) else ()


def group_references(results: Sequence[Result]) -> Groups:
    """Complete runs on the task, by what they are."""
    groups: dict[str, list[Result]] = {}
    for run in (run for run in results if run.status == "complete" and run.tasks == [TASK]):
        groups.setdefault(name_run(run), []).append(run)
    order = ["object", "style", "tone"]
    return dict(sorted(groups.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def name_run(run: Result) -> str:
    """`style`, `object + style, summed`, `object + style + tone, trained jointly`, `style, gate=scalar`, ..."""
    told, names = every_option(run), list_names(run)
    method = run.method.removesuffix("_sum")
    marks = [" + ".join(names)] if method == "emma" else [method, " + ".join(names)]
    if run.parts:
        marks.append("summed")
    elif len(names) > 1:
        marks.append("trained jointly")
    usual = {"gate": "token", "time": True} if method == "emma" else {}
    marks += [f"{key}={told[f'method.{key}']}" for key, value in usual.items() if told.get(f"method.{key}") != value]
    return ", ".join(marks)


def summarise_references(results: Sequence[Result]) -> Table:
    """Every kind of run, and the base that reads the text alone, on the same prompts."""
    columns = find_columns(results, TASK, [*MEASURES.values(), "clip_score", "clip_reference_similarity"])
    return build_table(group_references(results), columns, (BASE, "autoencoder", "truth"))


def list_kept(results: Sequence[Result]) -> list[Kept]:
    """What each sum keeps of each of its modules' gains, in the measure of that reference."""
    groups, found = group_references(results), []
    for runs in (runs for name, runs in groups.items() if name.endswith(", summed")):
        for reference in list_names(runs[0]):
            columns = find_columns(results, TASK, [MEASURES.get(reference, "clip_image_similarity")])
            alone, base = groups.get(reference, []), find_base(results, columns)
            if columns and alone and base is not None:
                kept = measure_kept(list_names(runs[0]), reference, columns[0], runs, alone, base)
                found += [] if kept is None else [kept]
    return found


def find_base(results: Sequence[Result], columns: Sequence[Column]) -> Row | None:
    """How the untouched base does on the same prompts, with its scores."""
    rows = (row for run in results if run.tasks == [TASK] for row in run.rows if row.model == BASE)
    return next((r for r in rows if columns and r.metric == columns[0].metric and r.values is not None), None)


def measure_kept(
    parts: Sequence[str], reference: str, column: Column, sums: Sequence[Result], alone: Sequence[Result], base: Row
) -> Kept | None:
    """sum - base >= KEPT (module - base) is sum - (KEPT module + (1 - KEPT) base) >= 0, example by example."""
    summed, single = (scores_by_seed(runs, column) for runs in (sums, alone))
    seeds = [seed for seed in summed if seed in single]
    plain = base.values or ()
    wanted = {seed: [mix_scores(m, b) for m, b in zip(single[seed], plain, strict=False)] for seed in seeds}
    beyond = compare_paired({seed: summed[seed] for seed in seeds}, wanted)
    if beyond is None or base.value is None:
        return None
    rows = [index_rows(runs, column) for runs in (sums, alone)]
    ours, theirs = ([part[seed].value or 0.0 for seed in seeds] for part in rows)
    gain = sum(theirs) / len(theirs) - base.value
    share = (sum(ours) / len(ours) - base.value) / gain if gain > 0 else None
    return Kept(parts, reference, column, gain, share, beyond)


def mix_scores(module: float | None, base: float | None) -> float | None:
    return None if module is None or base is None else KEPT * module + (1 - KEPT) * base


def index_rows(runs: Sequence[Result], column: Column) -> dict[int, Row]:
    """Rows of the runs themselves by seed."""
    return {run.seed: row for run in runs for row in run.rows if row.model == "run" and fits(row, column)}


def fits(row: Row, column: Column) -> bool:
    return (row.task, row.metric) == (column.task, column.metric) and row.value is not None


def scores_by_seed(runs: Sequence[Result], column: Column) -> Mapping[int, Sequence[float | None]]:
    return {seed: row.values for seed, row in index_rows(runs, column).items() if row.values is not None}


def list_reference_lines(results: Sequence[Result]) -> Iterator[str]:
    """The table of runs, then what sums keep; of what has runs."""
    table = summarise_references(results)
    if not table.lines:
        return
    yield from list_table_lines(table, "references")
    yield PUBLISHED + "\n"
    if kept := list_kept(results):
        yield f"| sum | module | measured by | its gain alone | share that the sum keeps | at least {KEPT:.0%} |"
        yield "|---|---|---|---|---|---|"
        for one in kept:
            share = "no gain to keep" if one.share is None else f"{one.share:.0%}"
            cells = [" + ".join(one.parts), one.reference, one.column.metric, number(one.gain), share, one.verdict]
            yield "| " + " | ".join(cells) + " |"
