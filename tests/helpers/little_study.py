"""A study of invented results, through the real `Result`: every kind of run that notebooks show, and broken ones."""

import json
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mtdiff.results.record import Result, Row

TASKS = ("text_to_image", "edit", "super_resolution", "inpaint")
METRICS = {
    "text_to_image": (("fd_alexnet", "lower"), ("clip_score_embedded", "higher")),
    "edit": (("directional_similarity_embedded", "higher"), ("lpips_alex", "lower")),
    "super_resolution": (("lpips_alex", "lower"), ("psnr", "higher")),
    "inpaint": (("lpips_alex", "lower"),),
}
SITES = [f"{place}.attentions.0.transformer_blocks.0" for place in ("down_blocks.0", "mid_block", "up_blocks.1")]
EXAMPLES = 12
STEPS = 400


def rows(tasks: Sequence[str], level: float, rng: np.random.Generator, references: bool) -> list[Row]:
    made = []
    for task in tasks:
        for metric, direction in METRICS[task]:
            for model, shift in (("run", 0.0), *((("base", 1.0),) if references else ())):
                scores = 3 + level + shift + np.arange(EXAMPLES) / 10 + 0.05 * rng.normal(size=EXAMPLES)
                whole = metric.startswith("fd")
                values = None if whole else tuple(float(f"{s:.6g}") for s in scores)
                mean = float(scores.mean())
                bounds = (mean - 0.2, mean + 0.2)
                made.append(Row(task, metric, direction, mean, EXAMPLES, *bounds, model, None, values))  # type: ignore[arg-type]
    return made


def report(method: str, tasks: Sequence[str], experts: int, rng: np.random.Generator, pcgrad: bool) -> dict[str, Any]:
    parts = ("input", "time embedding", "norms", "self_attention", "cross_attention", "ffn", "other")
    moved = {part: round(float(rng.random()) / 10, 4) for part in parts}
    blocks = {site: {"self_attention": 0.01, "cross_attention": 0.02, "ffn": 0.03} for site in SITES}
    curve = {"steps": [100, 200, 300, 400], "values": [0.4, 0.3, 0.25, 0.24]}
    found: dict[str, Any] = {
        "deviation": {"tasks": dict.fromkeys(tasks, moved), "blocks": blocks},
        "curves": {f"validation/loss/{task}": curve for task in tasks},
    }
    if method == "mtu":
        weights = {task: rng.dirichlet([20] * experts).round(4).tolist() for task in tasks}
        found["router"] = {f"{site}.ff": weights for site in SITES}
    if pcgrad:
        pairs = [f"{a}/{b}" for a, b in combinations(tasks, 2)]
        found["cosines"] = {pair: {"mean": 0.02, "sd": 0.01, "n": 40} for pair in pairs}
        layers = [f"{site}.{part}" for site in SITES for part in ("attn1", "ff")]
        found["layer_cosines"] = {
            layer: {"mean": 0.02 * k - 0.04, "sd": 0.01, "n": 40} for k, layer in enumerate(layers)
        }
        found["curves"] |= {f"train/cosine/{pair}": curve for pair in pairs}
    return found


def result(
    method: str,
    seed: int,
    tasks: Sequence[str] = TASKS,
    options: dict[str, Any] | None = None,
    level: float = 0.0,
    pcgrad: bool = False,
    budget: float = 1.0,
    **fields: Any,
) -> Result:
    rng = np.random.default_rng([seed, len(method), len(tasks)])
    given = {"_target_": f"x.{method}", **({"experts": 4} if method == "mtu" else {}), **(options or {})}
    steps = round(budget * STEPS * len(tasks) / len(TASKS))
    config = {
        "method": given,
        "balancing": {"weighting": {"_target_": "x.Uniform"}, "pcgrad": pcgrad},
        "tasks": list(tasks),
        "seed": seed,
        "weights": dict.fromkeys(TASKS, 1),
        "training": {"steps": steps, "batch_size": 8, "accumulate": 1, "lr": 0.001, "warmup": 0},
        "evaluation": {"split": "test", "per_task": EXAMPLES, "seed": 0},
    }
    fields = {
        "rows": rows(tasks, level + 0.02 * seed, rng, method == "mtu"),
        "method_report": report(method, tasks, given.get("experts", 1), rng, pcgrad),
        **fields,
    }
    return Result(
        method,
        "nano",
        "emoji",
        list(tasks),
        seed,
        config=config,
        git={"commit": "a" * 40, "dirty": False},
        versions={"mtdiff": "0.1.0"},
        device="cpu: x",
        steps=steps,
        samples_seen=8 * steps,
        seconds={"train": 10.0, "eval": 1.0},
        params={"trainable": 1000 * len(method), "total": 10_000, "total_for_all_tasks": 10_000 * (5 - len(tasks))},
        cost={
            "flops": 1e9 * len(method),
            "flops_no_attn": 9e8,
            "latency_ms": {"median": 10.0 + len(method), "p95": 20.0},
            "peak_memory_mb": None,
        },
        **fields,
    )


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    "odd-row": lambda r: r["rows"].append({**r["rows"][0], "task": "flying"}),
    "odd-no-tasks": lambda r: r.update(tasks=[]),
    "odd-task-twice": lambda r: r["tasks"].append(r["tasks"][0]),
    "odd-number": lambda r: r["rows"][0].update(value=1e308),
    "odd-nan": lambda r: r["rows"][0].update(value=float("nan")),
    "odd-training": lambda r: r["config"].update(training="fast"),
    "odd-steps": lambda r: r["config"]["training"].update(steps=1e300),
    "odd-batch": lambda r: r["config"]["training"].update(batch_size=[8]),
    "odd-weights": lambda r: r["config"].update(weights=dict.fromkeys(TASKS, 0)),
    "odd-share": lambda r: r["config"]["weights"].update(edit="much"),
    "odd-method": lambda r: r["config"].update(method=["x"]),
    "odd-place": lambda r: r["config"].update(run_dir=5),
    "odd-router": lambda r: r["method_report"].update(router={"a": {"edit": ["x"]}}),
    "odd-experts": lambda r: r["method_report"].update(router={"a": {"edit": [0.5]}}),
    "odd-cosines": lambda r: r["method_report"].update(cosines={"edit/flying": {"mean": 0.1}}),
    "odd-curves": lambda r: r["method_report"].update(curves={"a": {"steps": [1, 2], "values": [1]}}),
    "odd-deviation": lambda r: r["method_report"].update(deviation={"tasks": {"edit": 3}}),
}
"""Results that fit the schema, or nearly, and that no report can calculate with."""


def pictures(folder: Path, tasks: Sequence[str], shade: int) -> None:
    """Grids of three rows of four, as a run draws them: a common source and truth, answers of a shade of their own."""
    folder.mkdir(parents=True)
    for k, task in enumerate(tasks):
        rng = np.random.default_rng(TASKS.index(task))
        grid = np.zeros((3 * 18 + 2, 4 * 18 + 2, 3), np.uint8)
        for row in range(3):
            for column in range(4):
                noise = rng.integers(0, 255, (16, 16, 3))
                tile = {0: noise, 1: np.full((16, 16, 3), shade + 9 * k), 2: noise // 2}[row]
                grid[2 + 18 * row : 18 + 18 * row, 2 + 18 * column : 18 + 18 * column] = tile
        Image.fromarray(grid).save(folder / f"{task}.png")


def write(folder: Path) -> Path:
    """`runs/` with about 30 run folders; the pattern to read them is `folder / "*" / "result.json"`."""
    made: list[Result] = []
    for seed in (0, 1):
        made += [result(m, seed, level=k / 10) for k, m in enumerate(("mtu", "finetune", "lora_ffn", "a_new_one"))]
        made += [result("finetune", seed, [task], level=0.2) for task in TASKS]
        made += [result("mtu", seed, [task], level=0.1) for task in TASKS[:2]]
        made += [result("mtu", seed, TASKS[:2], level=0.15)]
        made += [result("mtu", seed, options={"experts": n}, level=0.05 * n) for n in (1, 2)]
        made += [result("mtu", seed, pcgrad=True, level=0.01)]
    made.append(result("dtr", 0, status="failed", rows=[], method_report={}, error="loss is nan"))
    bare = result("ia3", 0, level=0.3)
    made.append(result("ia3", 0, rows=bare.rows, method_report={}))
    other = result("one_pic", 0)
    other.config["training"]["warmup"] = 7
    made.append(other)
    made += [result(m, 0, budget=0.5) for m in ("finetune", "lora_ffn")]
    for number, one in enumerate(made):
        place = folder / f"{one.method}-{number}"
        one.save(place / "result.json")
        if one.status == "complete" and one.method != "a_new_one":
            pictures(place / "samples", one.tasks, 20 + 5 * (number % 8))
    for name, change in ODD.items():
        content = json.loads((folder / f"{made[0].method}-0" / "result.json").read_text())
        change(content)
        (folder / name).mkdir()
        (folder / name / "result.json").write_text(json.dumps(content))
    (folder / "broken").mkdir()
    (folder / "broken" / "result.json").write_text('{"schema": 1, "method": ')
    return folder
