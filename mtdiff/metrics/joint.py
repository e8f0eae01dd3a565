"""What judges answers of several modalities: labels that a model says of true pictures, restorations by masked share.

Letters: n examples of one task.
"""

import math

import torch
from torch import Tensor

from mtdiff.metrics.measures import Parts, PerExample
from mtdiff.types import MASKED_SHARES, Batch


class LabelAccuracy(PerExample):
    """1 where the label that the model says of the true picture is its own, else 0: at the end of a drawing that holds
    the picture, or at its first step at `level` percent of all times or later.

    Applies where the training data has the label, and the model was asked.
    """

    def __init__(self, level: int | None = None) -> None:
        super().__init__("label_accuracy" if level is None else f"label_accuracy_at_{level}")
        self.key = "said_label" if level is None else f"said_label_{level}"

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        nothing = torch.zeros(len(batch), dtype=torch.int64)
        said, truth = (batch.extra.get(key, nothing).cpu() for key in (self.key, "label"))
        return torch.where((said > 0) & (truth > 0), (said == truth).double(), math.nan)


class AtMaskedShare(PerExample):
    """Another measure, of the examples whose masked share is nearest to `level` percent among MASKED_SHARES."""

    def __init__(self, measure: PerExample, level: int) -> None:
        super().__init__(f"{measure.name}_masked_{level}")
        self.measure, self.level = measure, level

    def scores(self, outputs: Tensor, batch: Batch, parts: Parts) -> Tensor:
        shares = 100 * batch.mask.flatten(1).mean(1).cpu()  # (n,)
        nearest = (shares[:, None] - torch.tensor(MASKED_SHARES)).abs().argmin(1)
        chosen = (nearest == MASKED_SHARES.index(self.level)) & (shares < 100)
        scores = torch.full((len(batch),), math.nan, dtype=torch.float64)
        if chosen.any():
            scores[chosen] = self.measure.scores(outputs[chosen], batch.rows(chosen), parts).cpu().double()
        return scores
