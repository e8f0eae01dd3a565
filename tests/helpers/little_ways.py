"""Invented files of the studies of faster drawings and of budgets, as experiments/studies/ writes them."""

from typing import Any

TASKS = ("edit", "super_resolution", "inpaint")
COLUMNS = [{"task": task, "metric": "lpips_alex", "direction": "lower"} for task in TASKS]
BETTER, EVEN, WORSE = [-0.02, -0.03, -0.01], [0.0, -0.01, 0.01], [0.02, 0.01, 0.03]
HEAD: dict[str, Any] = {"steps": 20, "per_task": 8, "repeats": 3, "seeds": [0, 1], "device": "cpu: x"}


def make_way(name: str, time: float, whole: list[Any] | None = None, fewer: list[Any] | None = None) -> dict[str, Any]:
    """An entry whose differences to the whole drawing and to fewer steps are given by task; None: there are none."""
    rows = [[0.25, (whole or [None] * 3)[k], (fewer or [None] * 3)[k]] for k in range(3)]
    rival = None if fewer is None else f"{round(20 * time)} steps"
    ratio = [round(time - 0.01, 3), time, round(time + 0.01, 3)]
    return {"name": name, "time_ratio": ratio, "fewer_steps": rival, "rows": rows}


WAYS: dict[str, Any] = {
    "schema": 2,
    "timed": "edit",
    **HEAD,
    "columns": COLUMNS,
    "ways": [
        make_way("whole", 1.0),
        *(make_way(f"{n} steps", n / 20, [WORSE] * 3) for n in range(19, 3, -1)),
        make_way("good", 0.68, [EVEN, EVEN, WORSE], [BETTER, EVEN, EVEN]),
        make_way("mixed", 0.69, [EVEN] * 3, [BETTER, BETTER, WORSE]),
        make_way("slow", 0.95, [BETTER] * 3, [BETTER] * 3),
    ],
}


def make_network(name: str, of: str, budget: float, *rows: list[Any]) -> dict[str, Any]:
    """A network at a budget, alike in its costs for two tasks. rows: value, differences to whole, fewer, first."""
    cost = {"flops": budget + 0.02, "time": 0.2 + 0.8 * budget, "memory_mb": 40 * budget, "steps": 12}
    return {"name": name, "of": of, "budget": budget, "costs": dict.fromkeys(TASKS[:2], cost), "rows": list(rows)}


BUDGETS: dict[str, Any] = {
    "schema": 1,
    "kind": "budgets",
    **HEAD,
    "columns": COLUMNS[:2],
    "modules": ["block.0", "block.1", "block.0.ff#1"],
    "kept": {
        "edit": {"1": [2, 2, 2], "0.5": [2, 0, 1]},
        "super_resolution": {"1": [2, 2, 2], "0.5": [0, 2, 1]},
    },
    "promises": {
        "apart": [0.01, -0.08, 0.02],
        "within_5_percent": 2,
        "over_the_limit_by_5_percent": 0,
        "median_seconds": {"table": 1.0, "search": 2.0, "assemble": 0.5},
    },
    "networks": [
        make_network("Budgeted at 1", "Budgeted", 1.0, *[[0.25, EVEN, EVEN, None]] * 2),
        make_network("Budgeted at 0.5", "Budgeted", 0.5, [0.3, WORSE, BETTER, None], [0.3, EVEN, EVEN, None]),
        make_network("uniform at 1", "uniform", 1.0, *[[0.25, EVEN, EVEN, EVEN]] * 2),
        make_network("uniform at 0.5", "uniform", 0.5, [0.32, WORSE, EVEN, WORSE], [0.28, EVEN, EVEN, BETTER]),
    ],
}
