"""What is odd about a result that fits its schema, so that it would end a report of many. No torch here.

The configuration and what a method reports of itself are free mappings there; here are the parts that tables, studies
and figures calculate with.
"""

from collections.abc import Callable, Iterator
from typing import Any

from mtdiff.errors import shown
from mtdiff.results.record import Result
from mtdiff.results.schema import is_number, is_text, list_of

MOST = 1e12  # steps, or examples of a step
SECTIONS = ("method", "backbone", "data", "task", "training", "weights", "sampling", "evaluation", "balancing")
Test = Callable[[Any], bool]


def mapping_of(accepts: Test) -> Test:
    return lambda x: isinstance(x, dict) and all(map(accepts, x.values()))


def is_number_or_null(x: Any) -> bool:
    return x is None or is_number(x)


def is_curve(x: Any) -> bool:
    if not isinstance(x, dict) or not list_of(is_number)(x.get("steps")):
        return False
    return list_of(is_number_or_null)(x.get("values")) and len(x["steps"]) == len(x["values"])


def is_deviation(x: Any) -> bool:
    rows = mapping_of(lambda row: row is None or mapping_of(is_number_or_null)(row))
    return isinstance(x, dict) and rows(x.get("tasks") or {}) and rows(x.get("blocks") or {})


REPORTS: dict[str, tuple[Test, str]] = {
    "router": (mapping_of(mapping_of(list_of(is_number))), "weights by block and task"),
    "cosines": (mapping_of(mapping_of(is_number_or_null)), "numbers by pairs of tasks"),
    "layer_cosines": (mapping_of(mapping_of(is_number_or_null)), "numbers by layer"),
    "curves": (mapping_of(is_curve), "equally many steps and values by name"),
    "deviation": (is_deviation, "numbers by task and by block"),
}


def list_oddities(result: Result) -> Iterator[str]:
    """One line for each, which names the key and what is expected."""
    if not result.tasks or len(set(result.tasks)) < len(result.tasks):
        yield f"key `tasks`: expected one or more, each once, got {shown(result.tasks)}"
    for row in result.rows:
        if row.task not in result.tasks:
            yield f"key `rows`: task {shown(row.task)}: expected one of its tasks, {shown(', '.join(result.tasks))}"
    yield from list_odd_options(result)
    yield from list_odd_reports(result)


def list_odd_reports(result: Result) -> Iterator[str]:
    """The same for what the method reports: no figure could be drawn with it."""
    for key, (accepts, expected) in REPORTS.items():
        found = result.method_report.get(key)
        if found is not None and not accepts(found):
            yield f"key `method_report.{key}`: expected {expected}, got {shown(found)}"
            return
    for site, row in (result.method_report.get("router") or {}).items():
        if set(row) != set(result.tasks) or len({len(weights) for weights in row.values()}) > 1:
            yield f"key `method_report.router.{shown(site)}`: expected its tasks, each with equally many experts"
    for pair in result.method_report.get("cosines") or {}:
        if not set(pair.split("/")) <= set(result.tasks) or pair.count("/") != 1:
            yield f"key `method_report.cosines`: {shown(pair)}: expected two of its tasks with a / between"


def list_odd_options(result: Result) -> Iterator[str]:
    """The same for the configuration."""
    config = result.config
    for key in SECTIONS:
        if not isinstance(config.get(key) or {}, dict):
            yield f"key `config.{key}`: expected a mapping, got {shown(config[key])}"
            return
    training, weights = config.get("training") or {}, config.get("weights") or {}
    for key in ("steps", "batch_size", "accumulate"):
        value = training.get(key, 1)
        if not is_number(value) or not 0 <= value <= MOST:
            yield f"key `config.training.{key}`: expected a number from 0 to {MOST:g}, got {shown(value)}"
    shares = [weights.get(task, 1) for task in result.tasks]
    if not all(is_number(share) and 0 <= share <= MOST for share in shares) or (shares and not sum(shares)):
        yield f"key `config.weights`: expected shares of its tasks, got {shown(shares)}"
    place = config.get("run_dir")
    if place is not None and not is_text(place):
        yield f"key `config.run_dir`: expected a text, got {shown(place)}"
