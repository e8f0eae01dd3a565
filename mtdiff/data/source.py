"""What a data set must offer to feed any task: records by kind, addressed by number."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from mtdiff.types import Gallery, Need, Record, Split


class Source(ABC):
    """A data set. Stateless after construction: a record depends on its arguments alone."""

    @abstractmethod
    def size(self, need: Need, split: Split) -> int:
        """Records of one kind in one epoch of a split; 0 where the data set has none."""

    @abstractmethod
    def record(self, need: Need, split: Split, index: int, rng: np.random.Generator) -> Record:
        """Record `index` in [0, size). Whatever is drawn freely (place, background, wording) comes from `rng`."""

    def reference_names(self, need: Need, split: Split) -> Sequence[str]:
        """Names of the references that its records of a kind may have (`Record.reference`)."""
        return ()

    def gallery(self, split: Split, number: int) -> Gallery:
        """So many pictures of one thing each, of different things, fewer where there are not as many; always the same.

        What judges may compare an answer with them, or learn from those of training.
        """
        return Gallery()

    def order(self, need: Need, split: Split, rng: np.random.Generator) -> NDArray[np.int64]:
        """The records of one epoch, each once, in an order drawn from `rng`; near to how they lie, if that matters."""
        return rng.permutation(self.size(need, split))

    def buckets(self) -> Sequence["Source"]:
        """Training records by shape, a source each (`mtdiff.data.buckets`); itself where all are alike."""
        return [self]

    def list_classes(self) -> Sequence[str]:
        """Names of the classes that training records of the kind `label` have, in a fixed order."""
        return []

    def count_skipped(self) -> Mapping[str, int]:
        """Records that could not be read and were replaced so far, by `need/split`; none where all are made here."""
        return {}
