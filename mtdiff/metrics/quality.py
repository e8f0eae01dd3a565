"""The judge: one task's outputs -> rows with intervals, and the numbers per example behind them.

A task names what is judged (`perceptual`, `frechet`, ...), the judge knows by which measure, and a row carries the
measure's own true name (`lpips_alex`, `fid`, ...). All pictures are (n, 3, H, W) in [-1, 1].

Letters: n examples of one task, D width of a feature vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mtdiff.metrics.distances import Matrix
from mtdiff.metrics.measures import Galleries, Measure, Parts, PerExample, PerSet
from mtdiff.metrics.pictures import RangeMistake, check_pictures
from mtdiff.results.intervals import Interval, mean_interval, set_interval
from mtdiff.results.record import Direction, Row
from mtdiff.rng import numpy_rng
from mtdiff.types import Batch

MIN_SET = 10  # examples below which a distance between sets says nothing
SET_RESAMPLES = 100  # for Fréchet and kernel distances, where each resample is a whole evaluation


class Judged(Protocol):
    """What the judge reads of a task's metric. name: what is judged, one of the judge's measures."""

    @property
    def name(self) -> str: ...
    @property
    def direction(self) -> Direction: ...


@dataclass(frozen=True)
class Verdict:
    """A row, and the scores (n,) of the examples named by `keys`: NaN where the metric does not apply to one.

    values: None for a number of the whole set, and where nothing could be measured. The same keys under two models, in
    the same order, are pairs for `bootstrap.paired_difference`.
    """

    row: Row
    keys: tuple[str, ...]
    values: NDArray[np.float64] | None = None


class Judge(nn.Module):
    """measures: by what they judge. range_mistake: what follows when outputs look like [0, 1] instead of [-1, 1]."""

    anchor: Tensor

    def __init__(self, measures: Mapping[str, Measure], *, range_mistake: RangeMistake = "warn") -> None:
        super().__init__()
        self.measures, self.range_mistake = nn.ModuleDict(measures), range_mistake
        self.register_buffer("anchor", torch.zeros(()), persistent=False)
        self.eval().requires_grad_(False)

    @property
    def parts(self) -> Parts:
        return Parts(self.anchor.device)

    def look_at(self, galleries: Galleries) -> None:
        """Tell every measure where galleries of the data come from."""
        for measure in self.measures.values():
            assert isinstance(measure, Measure)
            measure.look_at(galleries)

    def describe(self) -> dict[str, Any]:
        """What measures have to tell of themselves, by their names."""
        told = {m.name: m.describe() for m in self.measures.values() if isinstance(m, Measure)}
        return {name: found for name, found in told.items() if found}

    def measure(self, metric: str, task: str = "") -> Measure:
        """The measure of what a metric names; ValueError where there is none."""
        if metric not in self.measures:
            where = f" of task {task!r}" if task else ""
            raise ValueError(f"metric {metric!r}{where}: expected one of {', '.join(self.measures)}")
        found = self.measures[metric]
        assert isinstance(found, Measure)
        return found

    def scores(self, metric: str, outputs: Tensor, batch: Batch) -> Tensor:
        """One number per example, (n,) float64 on the CPU; NaN where the metric does not apply to the example."""
        measure = self.measure(metric)
        if not isinstance(measure, PerExample):
            raise ValueError(f"metric {metric!r}: {measure.name} is one number of a whole set, not one per example")
        self._check(outputs, batch)
        return measure.scores(outputs, batch, self.parts).cpu().double()

    def _check(self, outputs: Tensor, batch: Batch) -> None:
        if outputs.shape != batch.target.shape:
            raise ValueError(
                f"outputs: expected {tuple(batch.target.shape)} as the targets, got {tuple(outputs.shape)}"
            )
        check_pictures(outputs, "outputs", self.range_mistake)
        check_pictures(batch.target, "targets", self.range_mistake)

    # Rows

    def rows(
        self,
        task: str,
        metrics: Sequence[Judged],
        outputs: Tensor,
        batch: Batch,
        seed: int,
        model: str = "run",
    ) -> Iterator[Row]:
        """Yield the rows of `verdicts`."""
        yield from (verdict.row for verdict in self.verdicts(task, metrics, outputs, batch, seed, model))

    def verdicts(
        self,
        task: str,
        metrics: Sequence[Judged],
        outputs: Tensor,
        batch: Batch,
        seed: int,
        model: str = "run",
    ) -> Iterator[Verdict]:
        """Yield one per metric, in order. outputs (n, 3, H, W) belong to the n examples of `batch`, all of one task.

        Means carry a percentile interval over examples (2000 resamples), Fréchet and kernel distances the re-centred
        one of `bootstrap.set_interval` (100 resamples). The same seed draws the same examples for every model.
        """
        keys = tuple(batch.key)
        broken = int((~outputs.isfinite()).flatten(1).any(1).sum())
        seen: dict[nn.Module, tuple[Matrix, Matrix]] = {}
        for metric in metrics:
            measure = self.measure(metric.name, task)
            row = Row(task, measure.name, metric.direction, None, 0, None, None, model)
            rng = numpy_rng(seed, "interval", task, measure.name)
            if broken:
                yield Verdict(replace(row, reason=f"{broken} of {len(outputs)} outputs are not finite"), keys)
            elif isinstance(measure, PerSet):
                yield Verdict(self._set_row(row, measure, outputs, batch, rng, seen), keys)
            else:
                scores = self.scores(metric.name, outputs, batch).numpy()
                yield Verdict(_mean_row(row, scores, rng), keys, scores)

    def _set_row(
        self,
        row: Row,
        measure: PerSet,
        outputs: Tensor,
        batch: Batch,
        rng: np.random.Generator,
        seen: dict[nn.Module, tuple[Matrix, Matrix]],
    ) -> Row:
        """seen: features of these outputs and targets by their network, computed once for all measures."""
        self._check(outputs, batch)
        n = len(outputs)
        if n < MIN_SET:
            return replace(row, reason=f"needs at least {MIN_SET} examples, got {n}")
        if measure.features not in seen:
            a, b = (self.parts(measure.features, x.float()).double().numpy() for x in (outputs, batch.target))
            seen[measure.features] = a, b
        found = measure.distance(*seen[measure.features], rng)
        interval = set_interval(found.resampled, n, rng, resamples=SET_RESAMPLES, least=found.least, value=found.value)
        return _fill_row(row, interval, n)


def _mean_row(row: Row, scores: NDArray[np.float64], rng: np.random.Generator) -> Row:
    applicable = scores[~np.isnan(scores)]
    if not len(applicable):
        return replace(row, reason="applies to none of the examples")
    values = tuple(None if np.isnan(score) else float(f"{score:.6g}") for score in scores)
    return replace(_fill_row(row, mean_interval(applicable, rng), len(applicable)), values=values)


def _fill_row(row: Row, interval: Interval, n: int) -> Row:
    return replace(row, value=interval.value, n=n, low=interval.low, high=interval.high)
