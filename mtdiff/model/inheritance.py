"""Feature inheritance (A-SDM, arXiv 2406.00210): in some steps parts of the network give what they gave before.

The paper says that a block, a layer or a unit is skipped at some timesteps and its stored output used again, by several
schedules. Which parts and which schedules is not given; decided here, near what is public (DeepCache, 2312.00858, for
U-Nets; FORA, 2407.01425, for transformers): a backbone names its parts, a drawing plans its steps.

Where a part adds to its input, as a transformer's block does, what it adds is kept: the step's own input still counts.

Letters: B batch, C latent channels, h w latent size.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from mtdiff.backbones.base import Level, Part, UnitKind
from mtdiff.model.denoiser import Denoiser
from mtdiff.types import Condition


@dataclass(frozen=True, kw_only=True)
class Inheritance:
    """What steps inherit and which ones do; `mtdiff.config.drawing.Inherit` describes the options."""

    level: Level
    every: int
    start: float | None
    until: float
    spacing: Literal["uniform", "quad"]
    units: Sequence[UnitKind]

    def plan(self, times: Sequence[float]) -> list[bool]:
        """Which of the steps at these falling times are computed whole; the first of a drawing always is.

        Of n steps between `start` and `until`, m = ceil(n / every) are whole: every `every`-th, or those nearest below
        n (j / m)^2 for j = 0..m-1 (`quad`, after DDIM's quadratic times, 2010.02502; dense where the picture forms).
        """
        inside = [i for i, t in enumerate(times) if self.until <= t and (self.start is None or t <= self.start)]
        n = len(inside)
        m = -(-n // self.every)
        whole = [self.every * j if self.spacing == "uniform" else n * j * j // (m * m) for j in range(m)]
        for j in range(1, m):  # squares of small numbers fall on the same step
            whole[j] = max(whole[j], whole[j - 1] + 1)
        inherited = set(range(n)) - set(whole)
        return [i == 0 or i not in {inside[j] for j in inherited} for i in range(len(times))]

    def find_parts(self, denoiser: Denoiser) -> list[Part]:
        """The parts of a denoiser. ValueError in one line where it has none at this level."""
        backbone = denoiser.backbone
        found = backbone.parts(self.level, self.units)
        if not found:
            raise ValueError(f"sampling.inherit.level={self.level}: this {type(backbone).__name__} has none to skip")
        return found


class Store:
    """Answers calls of a denoiser whole, or with the parts that an earlier whole one kept. One drawing, one store.

    A layout may call the network more than once in a call of the denoiser: of each part, all results are kept in order.
    """

    def __init__(self, denoiser: Denoiser, inheritance: Inheritance) -> None:
        self.denoiser, self.parts = denoiser, inheritance.find_parts(denoiser)
        self._kept: list[list[Any]] = []
        self._shape: tuple[int, ...] | None = None  # of the batch whose results are kept

    def __call__(self, noisy: Tensor, t: Tensor, condition: Condition, *, whole: bool, keep: bool) -> Tensor:
        """noisy (B, C, h, w), t (B,) -> prediction (B, C, h, w). A batch of another shape is always computed whole.

        whole: nothing is inherited. keep: a later call will inherit from this one.
        """
        if not whole and self._shape == tuple(noisy.shape):
            with intercept_calls(self.parts, self._reuse):
                return self.denoiser(noisy, t, condition)
        self._kept, self._shape = [[] for _ in self.parts], None
        if not keep and whole:
            return self.denoiser(noisy, t, condition)
        with intercept_calls(self.parts, self._record):
            out = self.denoiser(noisy, t, condition)
        self._shape = tuple(noisy.shape)
        return out

    def _record(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        adds, kept = self.parts[number].adds, self._kept[number]

        def call(*args: Any, **options: Any) -> Any:
            out = forward(*args, **options)
            kept.append(subtract_input(out, *args, **options) if adds else out)
            return out

        return call

    def _reuse(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        adds, kept = self.parts[number].adds, iter(self._kept[number])

        def call(*args: Any, **options: Any) -> Any:
            return add_input(next(kept), *args, **options) if adds else next(kept)

        return call


def subtract_input(out: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **options: Any) -> Any:
    """What a block has added: to the picture's stream, or in a joint block to (text, picture)."""
    if isinstance(out, tuple):
        return out[0] - encoder_hidden_states, out[1] - hidden_states
    return out - hidden_states


def add_input(added: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **options: Any) -> Any:
    """The inverse of `subtract_input`, on another step's input."""
    if isinstance(added, tuple):
        return encoder_hidden_states + added[0], hidden_states + added[1]
    return hidden_states + added


@contextmanager
def intercept_calls(
    parts: Sequence[Part], make: Callable[[int, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """While the context lasts, each part's `forward` is what `make` makes of its number and the forward it has.

    Hooks cannot skip a module's work; and a wrapper that stays would change the names of the weights.
    """
    modules = [part.module for part in parts]
    before = [vars(module).get("forward") for module in modules]
    for number, module in enumerate(modules):
        vars(module)["forward"] = make(number, module.forward)
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            restore_forward(module, forward)


def restore_forward(module: nn.Module, forward: Any) -> None:
    """forward: what the module itself had in place of its class's, or None."""
    if forward is None:
        del vars(module)["forward"]
    else:
        vars(module)["forward"] = forward
