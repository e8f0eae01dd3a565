"""What routed layers may look at.

Letters: B batch.
"""

from torch import Tensor


class Routing:
    """Task ids, timesteps and budgets of the current call: task (B,) int64, t (B,), budget (B,) in (0, 1] or None.

    Written before every call and never cleared: gradient checkpointing replays the forward inside `backward`, and
    another value by then would corrupt router gradients without an error.
    """

    def __init__(self) -> None:
        self._task: Tensor | None = None
        self._t: Tensor | None = None
        self.budget: Tensor | None = None

    def write(self, task: Tensor, t: Tensor, budget: Tensor | None = None) -> None:
        """budget: share of the base's cost that each sample may take; None: as the method decides."""
        self._task, self._t, self.budget = task, t, budget

    @property
    def task(self) -> Tensor:
        if self._task is None:
            raise RuntimeError("routing was read before any call of the denoiser wrote it")
        return self._task

    @property
    def t(self) -> Tensor:
        if self._t is None:
            raise RuntimeError("routing was read before any call of the denoiser wrote it")
        return self._t
