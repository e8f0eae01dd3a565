"""What papers print, as data with sources (`published_numbers.yaml`): shown beside our numbers, never among them."""

from pathlib import Path
from typing import Any

import yaml

from mtdiff.results.render import ARROWS, Aside


def read_published() -> dict[str, Any]:
    """sources, metrics, notes, and the rows of `tasks` and `routing`; each row names its source."""
    found: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    return found


def shown(value: object) -> str:
    return "" if value is None else str(value)


def aside() -> Aside:
    """The rows on our four tasks as a table of their own."""
    found = read_published()
    metrics = found["metrics"]
    head = ["model", "base", "TFLOPs", "parameters"]
    head += [f"{m['name']} {ARROWS[m['direction']]}" for m in metrics.values()]
    keys = ("model", "base", "tflops", "params", *metrics)
    rows = [[*(shown(row[key]) for key in keys), found["sources"][row["source"]]] for row in found["tasks"]]
    notes = ["Other bases, data and metrics than ours; all but FID times 100.", *found["notes"]]
    return Aside("Published elsewhere, not comparable with the numbers above", [*head, "source"], rows, notes)
