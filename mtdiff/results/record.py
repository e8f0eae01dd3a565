"""One JSON per run: its schema, written atomically, validated when read, and found by patterns. No torch here.

What is missing is null, never a number: a row without a value says why in `reason`.
"""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from mtdiff.files.reading import read_json
from mtdiff.files.writing import MEGABYTE, write_atomically
from mtdiff.results.encoding import strip_machine, to_json, write_lines
from mtdiff.results.schema import (
    COUNT,
    COUNT_OR_NULL,
    LARGEST,
    MAPPING,
    NAME,
    NAMES,
    NUMBER_OR_NULL,
    PARTS,
    SCORES,
    TEXT,
    TRUTH_OR_NULL,
    VERSIONS,
    WHOLE,
    Kind,
    blank,
    choice,
    document,
    list_errors,
    optional,
    or_null,
)

SCHEMA = 1
RUN = "run"  # the `model` of a row that judges the run's own outputs
Direction = Literal["lower", "higher"]
Status = Literal["complete", "failed", "interrupted"]


@dataclass(frozen=True)
class Row:
    """One metric of one task: a mean over n examples, or a number of the whole set, with its 95 % interval."""

    task: Annotated[str, NAME, "the task that is judged"]
    metric: Annotated[str, NAME, "the metric's name"]
    direction: Annotated[Direction, choice(Direction), "which way is better"]
    value: Annotated[float | None, NUMBER_OR_NULL, "the mean, or the number of the whole set"]
    n: Annotated[int, COUNT, "test examples behind it"]
    low: Annotated[float | None, NUMBER_OR_NULL, "lower bound of the 95 % interval"]
    high: Annotated[float | None, NUMBER_OR_NULL, "upper bound of the 95 % interval"]
    model: Annotated[str, optional(NAME), "`run`, or a reference on the same examples (`copy`, `base`, ...)"] = RUN
    reason: Annotated[str | None, optional(or_null(TEXT)), "why `value` is null"] = None
    values: Annotated[
        tuple[float | None, ...] | None,
        optional(SCORES),
        "the n scores behind a mean, in the order of the test examples, null where the metric does not apply to one; "
        "paired tests compare them",
    ] = None


class Git:
    commit: Annotated[str | None, or_null(TEXT), "commit of the code"]
    dirty: Annotated[bool | None, TRUTH_OR_NULL, "whether the working tree had uncommitted changes"]


class Seconds:
    train: Annotated[float | None, NUMBER_OR_NULL, "wall-clock time of training"]
    eval: Annotated[float | None, NUMBER_OR_NULL, "wall-clock time of drawing and judging"]


class Params:
    trainable: Annotated[int | None, COUNT_OR_NULL, "changed by this training"]
    total: Annotated[int | None, COUNT_OR_NULL, "used by one call of the denoiser"]
    total_for_all_tasks: Annotated[int | None, COUNT_OR_NULL, "needed to serve all tasks of the comparison"]


class Latency:
    median: Annotated[float | None, NUMBER_OR_NULL, "milliseconds"]
    p95: Annotated[float | None, NUMBER_OR_NULL, "milliseconds"]


class Cost:
    flops: Annotated[float | None, NUMBER_OR_NULL, "of one call of the denoiser, 2 per multiply-add"]
    flops_no_attn: Annotated[float | None, NUMBER_OR_NULL, "the same without the products of attention"]
    latency_ms: Annotated[dict[str, Any], Latency, "of one call"]
    peak_memory_mb: Annotated[float | None, NUMBER_OR_NULL, "of one call; null where the device does not count it"]
    picture_flops: Annotated[
        float | None,
        optional(NUMBER_OR_NULL),
        "of all steps of one picture, under guidance, inherited features and switching",
    ]
    picture_flops_no_attn: Annotated[
        float | None, optional(NUMBER_OR_NULL), "the same without the products of attention"
    ]
    picture_ms: Annotated[
        float | None,
        optional(NUMBER_OR_NULL),
        "median time of each kind of step, summed over the steps of one picture",
    ]


@dataclass(frozen=True)
class Result:
    """All that tables and notebooks read of a run; the annotations are the schema of `result.json`."""

    schema: Annotated[int, Kind(str(SCHEMA), lambda x: x == SCHEMA), "version of this file's form"] = field(
        default=SCHEMA, kw_only=True
    )
    status: Annotated[Status, choice(Status), "how the run ended"] = field(default="complete", kw_only=True)
    method: Annotated[str, NAME, "name of its configuration"]
    backbone: Annotated[str, NAME, "name of its configuration"]
    data: Annotated[str, NAME, "name of its configuration"]
    tasks: Annotated[list[str], NAMES, "the tasks trained on together"]
    seed: Annotated[int, WHOLE, "of everything random"]
    config: Annotated[dict[str, Any], MAPPING, "the whole configuration"] = field(default_factory=dict)
    git: Annotated[dict[str, Any], Git, "where the code comes from"] = field(default_factory=lambda: blank(Git))
    versions: Annotated[dict[str, str], VERSIONS, "of Python and the packages that decide the numbers"] = field(
        default_factory=dict
    )
    device: Annotated[str, TEXT, "kind and name of the processor or GPU"] = ""
    steps: Annotated[int, COUNT, "optimizer steps taken"] = 0
    samples_seen: Annotated[int, COUNT, "training examples drawn, over all tasks"] = 0
    seconds: Annotated[dict[str, float | None], Seconds, "time"] = field(default_factory=lambda: blank(Seconds))
    params: Annotated[dict[str, int | None], Params, "numbers of parameters"] = field(
        default_factory=lambda: blank(Params)
    )
    cost: Annotated[dict[str, Any], Cost, "of inference"] = field(default_factory=lambda: blank(Cost))
    rows: Annotated[list[Row], [Row], "what was measured"] = field(default_factory=list)
    method_report: Annotated[
        dict[str, Any],
        optional(MAPPING),
        "what method, training and data report of themselves: routers, deviations, curves, `data_hash`",
    ] = field(default_factory=dict)
    starvation: Annotated[
        dict[str, Any],
        optional(MAPPING),
        "of each task: training examples, and first and last length of its gradient and its validation error",
    ] = field(default_factory=dict)
    parts: Annotated[
        list[dict[str, Any]], optional(PARTS), "adapters that a merged run is made of: method, tasks, weights, hashes"
    ] = field(default_factory=list)
    error: Annotated[str | None, optional(or_null(TEXT)), "why the run is not complete"] = None

    def save(self, path: Path) -> None:
        """Write the whole file or nothing. Numbers that are not finite become null; paths lose this machine's part."""
        rows = [asdict(replace_odd_value(row)) for row in self.rows]
        content = to_json({**asdict(self), "config": strip_machine(self.config), "rows": rows})
        for error in list_errors(content, Result):
            raise ValueError(f"{path}: {error}")
        write_atomically(path, write_lines(content) + "\n")

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read and validate; ValueError in one line names the file, the key and what is expected."""
        content = read_json(path, 64 * MEGABYTE)
        found = content.get("schema") if isinstance(content, dict) else None
        if found != SCHEMA or isinstance(found, bool):
            raise ValueError(f"{path}: key `schema`: expected {SCHEMA}, got {found!r}")
        for error in list_errors(content, Result):
            raise ValueError(f"{path}: {error}")
        return cls(**{**content, "rows": [build_row(row) for row in content["rows"]]})


def build_row(content: dict[str, Any]) -> Row:
    values = content.get("values")
    return Row(**{**content, "values": None if values is None else tuple(values)})


def replace_odd_value(row: Row) -> Row:
    """The row itself, or without a value and with the reason where its value is no number that can be compared."""
    if row.value is None or abs(row.value) <= LARGEST:
        return row
    return replace(row, value=None, low=None, high=None, reason=row.reason or f"the value was {row.value}")


def describe_schema() -> str:
    """The page `docs/results_schema.md`."""
    head = "# result.json\n\nGenerated by `python -m mtdiff.results.record > docs/results_schema.md`.\n\n"
    return head + "\n".join(["| key | holds | meaning |", "| --- | --- | --- |", *document(Result)])


if __name__ == "__main__":
    print(describe_schema())
