"""What routed layers may look at.

Letters: B batch.
"""

from torch import Tensor


class Routing:
    """Task ids and timesteps of the current call: task (B,) int64, t (B,).

    Written before every call and never cleared: gradient checkpointing replays the forward inside `backward`, and
    another value by then would corrupt router gradients without an error.
    """

    def __init__(self) -> None:
        self._task: Tensor | None = None
        self._t: Tensor | None = None

    def write(self, task: Tensor, t: Tensor) -> None:
        self._task, self._t = task, t

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
