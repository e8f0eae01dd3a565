"""Invented results of the studies that ask one question each: a score is a level, an example's own part, and noise."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtdiff.results.questions.joint import LEVELS, SHARES
from mtdiff.results.record import Direction, Result, Row

EXAMPLES = 12
FOUR = ("text_to_image", "edit", "super_resolution", "inpaint")
Metrics = Mapping[str, Mapping[str, Direction]]
PLAIN: Metrics = {
    "text_to_image": {"clip_score_embedded": "higher"},
    "edit": {"directional_similarity_embedded": "higher"},
    "super_resolution": {"lpips_alex": "lower"},
    "inpaint": {"lpips_alex": "lower"},
    **{task: {"lpips_alex": "lower"} for task in ("colorize", "denoise", "outpaint", "deblur", "segment", "order")},
}
TARGETS = {
    "mtu": "mtdiff.methods.mtu.MTU",
    "finetune": "baselines.finetune.Finetune",
    "lora_ffn": "baselines.lora_ffn.LoraFFN",
    "ia3": "baselines.ia3.IA3",
    "dtr": "baselines.dtr.DTR",
    "one_pic": "baselines.one_pic.OnePic",
    "joint": "baselines.joint.Joint",
    "emma": "baselines.emma.Emma",
    "emma_sum": "baselines.emma.Emma",
    "ip_adapter": "baselines.ip_adapter.IPAdapter",
}


def row(task: str, metric: str, direction: Direction, gain: float, seed: int, model: str = "run") -> Row:
    """A metric that is `gain` better than 0.5, on the same examples for all."""
    rng = np.random.default_rng([seed, len(metric), len(model)])
    sign = 1 if direction == "higher" else -1
    scores = 0.5 + sign * gain + np.arange(EXAMPLES) / 100 + 0.002 * rng.normal(size=EXAMPLES)
    values, mean = tuple(float(f"{s:.6g}") for s in scores), float(scores.mean())
    return Row(task, metric, direction, mean, EXAMPLES, mean - 0.02, mean + 0.02, model, None, values)


def answer(
    method: str,
    seed: int,
    tasks: Sequence[str] = FOUR,
    gain: float = 0.0,
    options: Mapping[str, Any] | None = None,
    metrics: Metrics = PLAIN,
    base: float | None = None,
    config: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Result:
    """A complete run whose every metric is `gain` better than that of another. base: gain of the untouched base."""
    steps = 25 * len(tasks)
    node = {"_target_": TARGETS.get(method, f"x.{method}"), **(options or {})}
    whole = {
        "method": node,
        "balancing": {"weighting": {"_target_": "mtdiff.training.balancing.Uniform"}, "pcgrad": False},
        "tasks": list(tasks),
        "seed": seed,
        "weights": dict.fromkeys(FOUR, 1),
        "training": {"steps": steps, "batch_size": 8, "accumulate": 1, "lr": 0.001},
        "evaluation": {"split": "test", "per_task": 256, "seed": 0},
        **(config or {}),
    }
    rows = [row(task, *metric, gain, seed) for task in tasks for metric in metrics[task].items()]
    if base is not None:
        rows += [row(task, *metric, base, 0, "base") for task in tasks for metric in metrics[task].items()]
    cost = {"flops": 1e9, "flops_no_attn": 1e9, "latency_ms": {"median": 1.0, "p95": 2.0}, "peak_memory_mb": None}
    return Result(
        method,
        "nano",
        "emoji",
        list(tasks),
        seed,
        config=whole,
        git={"commit": "a" * 40, "dirty": False},
        device="cpu: x",
        steps=steps,
        samples_seen=8 * steps,
        params={"trainable": 1000, "total": 10_000, "total_for_all_tasks": 10_000},
        **{"rows": rows, "cost": cost, **fields},
    )


SHARED: Metrics = {
    "joint_masked": {
        "lpips_alex": "lower",
        "psnr": "higher",
        **{f"lpips_alex_masked_{share}": "lower" for share in SHARES},  # type: ignore[dict-item]
    },
    "joint_label": {
        "clip_score_embedded": "higher",
        "label_accuracy": "higher",
        **{f"label_accuracy_at_{level}": "higher" for level in LEVELS},  # type: ignore[dict-item]
    },
}
BOTH = ("joint_masked", "joint_label")


def make_joint() -> list[Result]:
    """Every setting of joint generation in every phase, and MTU; the later ones are better."""
    made = []
    for s in range(3):
        for k, (picture, label) in enumerate((("U", "M"), ("X", "M"), ("X", "E"))):
            own: dict[str, Any] = {"options": {"picture": picture, "label": label}, "metrics": SHARED}
            made.append(answer("joint", s, BOTH, 0.1 * k, base=-0.1 if k == 1 else None, **own))
            for task in BOTH:
                made.append(answer("joint", s, [task], 0.1 * k + 0.05, config={"init_from": "runs/a"}, **own))
        made += [answer("joint", s, [task], 0.15, {"picture": "X", "label": "M"}, SHARED) for task in BOTH]
        made.append(answer("mtu", s, ["joint_masked"], 0.4, metrics=SHARED))
    return made


REFERENCE: Metrics = {
    "reference": {
        "own_of_200_embedded": "higher",
        "style_accuracy_embedded": "higher",
        "clip_image_similarity_embedded": "higher",
        "clip_score_embedded": "higher",
    }
}


def make_emma(method: str, seed: int, names: Sequence[str], gain: float, **fields: Any) -> Result:
    """A run on reference pictures of these names."""
    shown = {"task": {"reference": {"reference": list(names)}}}
    options = {"references": list(names), **fields.pop("options", {})}
    return answer(method, seed, ["reference"], gain, options, REFERENCE, config=shown, **fields)
