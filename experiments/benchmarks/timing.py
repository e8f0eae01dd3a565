"""Ratios of times within one process: variants take turns (A B C A B C ...), and every turn gives one ratio.

What else slows a machine down slows neighbouring calls alike, so a ratio of neighbours holds where a time does not.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch


@dataclass(frozen=True)
class How:
    """How to measure. device: cpu or cuda. threads: of the CPU, null for torch's own choice.

    precision: bfloat16 is autocast over float32 weights, as in training; null: float32, and for training what
    configs/trainer says. repeats: turns that count, null for each part's own number. quick: small sizes and one turn,
    to see that all runs; its times mean nothing.
    """

    device: str = "cpu"
    precision: Literal["float32", "bfloat16"] | None = None
    repeats: int | None = None
    threads: int | None = None
    quick: bool = False

    def __post_init__(self) -> None:
        for name in ("repeats", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        if self.device.partition(":")[0] not in ("cpu", "cuda"):
            raise ValueError(f"device={self.device}: expected one of cpu, cuda")
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"device={self.device}: torch finds no such GPU here; expected cpu")

    def turns(self, usual: int) -> int:
        """Turns of a part whose usual number is given."""
        return self.repeats or (1 if self.quick else usual)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.precision == "bfloat16")

    def wait(self) -> None:
        """Empty a GPU's queue."""
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Bar:
    """What is asked of one variant against another. kind: `time` is its time over the other's, `speed` the inverse.

    least, most: of the median ratio; neither: the ratio is only told.
    """

    variant: str
    against: str
    kind: Literal["time", "speed"] = "time"
    least: float | None = None
    most: float | None = None

    def ratios(self, seconds: Mapping[str, list[float]]) -> list[float]:
        """One ratio a turn."""
        pairs = zip(seconds[self.variant], seconds[self.against], strict=True)
        return [a / b if self.kind == "time" else b / a for a, b in pairs]

    def describe_bounds(self) -> str:
        if self.least is None:
            return "" if self.most is None else f"at most {self.most:g}"
        return f"at least {self.least:g}" if self.most is None else f"{self.least:g} to {self.most:g}"

    def verdict(self, low: float, median: float, high: float) -> str | None:
        """`met`; `missed`; `undecided` where the median misses the bar and one of the quartiles low and high does not.

        None where nothing is asked.
        """
        if self.least is None and self.most is None:
            return None
        least = -float("inf") if self.least is None else self.least
        most = float("inf") if self.most is None else self.most
        if least <= median <= most:
            return "met"
        return "undecided" if low <= most and high >= least else "missed"


@dataclass(frozen=True)
class Comparison:
    """Variants that did the same work. seconds: per call and turn, by variant; empty where nothing was timed.

    counts: what was not timed, such as ratios of FLOPs, or how far the variants' results are apart.
    """

    part: str
    case: str
    seconds: Mapping[str, list[float]]
    bars: tuple[Bar, ...]
    counts: Mapping[str, float]

    def rows(self) -> list[dict[str, Any]]:
        """One a bar: median, quartiles and extremes of its ratio, and the verdict."""
        made = []
        for bar in self.bars:
            ratios = bar.ratios(self.seconds)
            low, high = (float(v) for v in np.quantile(ratios, (0.25, 0.75)))
            median = statistics.median(ratios)
            ratio = {"median": median, "low": low, "high": high, "least": min(ratios), "most": max(ratios)}
            verdict = bar.verdict(low, median, high)
            made.append(
                {**vars(bar), "ratio": ratio, "turns": len(ratios), "asked": bar.describe_bounds(), "verdict": verdict}
            )
        return made

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        about = {"part": self.part, "case": self.case, "rows": self.rows(), "counts": dict(self.counts)}
        return {**about, "seconds": dict(self.seconds)}


def take_turns(
    variants: Mapping[str, Callable[[], float | None]], how: How, turns: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of every variant in every turn: what its call returns, or where that is None the time of the call."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(-warmup, turns):
        for name, call in variants.items():
            how.wait()
            began = time.perf_counter()
            found = call()
            how.wait()
            if turn >= 0:
                seconds[name].append(time.perf_counter() - began if found is None else found)
    return seconds


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max())
