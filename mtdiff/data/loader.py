"""Training batches whose loader processes may die: they are started again at the batch that is due."""

import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from mtdiff.data.mixture import RunningBatchSampler
from mtdiff.errors import RunError
from mtdiff.types import Batch, Example

log = logging.getLogger(__name__)
CHILD: signal.Signals | None = getattr(signal, "SIGCHLD", None)  # Windows has none
MOST = 3  # deaths in a row without a batch between
START = "fork" if sys.platform == "linux" else None
"""How loader processes start. Python's choice on Linux from 3.14 on, a fork server, would be their parent in the place
of the run: it stays while they do, and they stay while it does, so a run that is killed would leave them for ever."""


class SteadyLoader:
    """Endless batches of numbered examples from `start()` on. A batch is a function of its number, so nothing is lost
    or comes twice when workers die (out of memory, a crash in a decoder): new ones go on at the batch that is due.

    start: number of the first example, asked whenever iteration begins. how: arguments of DataLoader.
    RunError after the third death in a row.
    """

    def __init__(
        self,
        examples: Dataset[Example],
        batch_size: int,
        start: Callable[[], int],
        rank: int = 0,
        world: int = 1,
        **how: Any,
    ) -> None:
        self.examples, self.batch_size, self.start, self.how = examples, batch_size, start, how
        self.rank, self.world, self.deaths = rank, world, 0

    def __iter__(self) -> Iterator[Batch]:
        number, in_a_row = self.start(), 0
        while True:
            batches, handler = self._batches(number)
            while True:
                try:
                    with hear_deaths(handler):
                        batch = next(batches)
                except (RuntimeError, OSError, EOFError) as error:
                    if self.how.get("num_workers", 0) == 0 or not tells_of_death(error):
                        raise
                    in_a_row, self.deaths = in_a_row + 1, self.deaths + 1
                    said = " ".join(str(error).split())
                    if in_a_row >= MOST:
                        raise RunError(f"loader processes died {in_a_row} times in a row: {said}") from None
                    log.warning("%s; new loader processes go on at the same batch", said)
                    break
                yield batch
                number, in_a_row = number + self.batch_size * self.world, 0
            del batches

    def _batches(self, number: int) -> tuple[Iterator[Batch], Any]:
        """Batches from example `number` on, and torch's handler of SIGCHLD, put aside."""
        sampler = RunningBatchSampler(self.batch_size, number, self.rank, self.world)
        seeds = torch.Generator()  # of its own: the run's random states do not depend on when workers start
        loader = DataLoader(self.examples, batch_sampler=sampler, generator=seeds, **self.how)
        batches: Iterator[Any] = iter(loader)
        if loader.num_workers == 0 or CHILD is None or threading.current_thread() is not threading.main_thread():
            return batches, None
        return batches, signal.signal(CHILD, signal.SIG_DFL)


def tells_of_death(error: Exception) -> bool:
    """Whether a worker has died: torch says so, or the batch that it was handing over breaks off.

    What a worker raises itself arrives as `Caught ... in DataLoader worker process ...` and is no death.
    """
    said = str(error)
    return "DataLoader worker (pid" in said if isinstance(error, RuntimeError) else not said.startswith("Caught ")


@contextmanager
def hear_deaths(handler: Any) -> Iterator[None]:
    """A worker's death raises in here, where it can be answered, and not wherever training happens to be.

    torch's handler of SIGCHLD would raise at any point of the program. Elsewhere a death is not noticed; it is found
    when the next batch is waited for.
    """
    if handler is None or CHILD is None:
        yield
        return
    signal.signal(CHILD, handler)
    try:
        yield
    finally:
        signal.signal(CHILD, signal.SIG_DFL)
