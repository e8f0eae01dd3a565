"""Settings of a drawing that make it faster: features that steps inherit, and two models that take turns. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from mtdiff.config.schema import check_arguments
from mtdiff.config.signatures import signature

Unit = Literal["self_attention", "cross_attention", "ffn"]
UNITS: tuple[Unit, ...] = ("self_attention", "cross_attention", "ffn")


@dataclass(frozen=True)
class Inherit:
    """Feature inheritance of A-SDM (arXiv 2406.00210): some steps compute `level` alone, see `model.inheritance`.

    level: what is used again: all but the outermost blocks, all but the last layer, or the layers named by `units`.
    every: of so many steps one is computed whole; 1 inherits nothing. start, until: times of the noise schedule between
    which steps may inherit, from the noise (null: the first) down to 0; `start` is written `from` in a configuration.
    spacing: of the whole steps: uniform, or quad, as many but closer together at the beginning.
    """

    level: Literal["block", "layer", "unit"]
    every: int
    start: float | None = None
    until: float = 0
    spacing: Literal["uniform", "quad"] = "uniform"
    units: Sequence[Literal["self_attention", "cross_attention", "ffn"]] = UNITS

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"sampling.inherit.every={self.every}: expected at least 1")
        check_time("sampling.inherit.from", self.start)
        check_time("sampling.inherit.until", self.until)
        if self.start is not None and self.start < self.until:
            raise ValueError(f"sampling.inherit.from={self.start}: expected at least until={self.until}")
        if not self.units:
            raise ValueError(f"sampling.inherit.units=[]: expected one or more of {', '.join(UNITS)}")

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> Self:
        """From a configuration. ValueError in one line where it names another option or a value is none of those."""
        known = [replace(a, name="from") if a.name == "start" else a for a in signature(f"{__name__}.Inherit")]
        check_arguments("sampling.inherit", known, node)
        return cls(**{"start" if k == "from" else k: v for k, v in node.items()})


@dataclass(frozen=True)
class Switch:
    """Multi-UNet switching of A-SDM: two models on the same base draw one picture, one after the other.

    light: folder of the other model's run, or a shipped adapter's name. first: which of the two begins; it draws the
    steps at times of at least `until`, counted as the noise schedule does (most: 999, noise, to 0).
    """

    light: str
    until: float
    first: Literal["light", "full"] = "light"

    def __post_init__(self) -> None:
        check_time("sampling.switch.until", self.until)
        if not self.light:
            raise ValueError("sampling.switch.light='': expected the folder of a run")

    @classmethod
    def read(cls, node: Mapping[str, Any]) -> Self:
        """From a configuration. ValueError in one line where it names another option or a value is none of those."""
        check_arguments("sampling.switch", list(signature(f"{__name__}.Switch")), node)
        return cls(**node)


def check_time(key: str, value: float | None) -> None:
    if value is not None and not 0 <= value < float("inf"):
        raise ValueError(f"{key}={value}: expected a time of the noise schedule, at least 0 and finite")
