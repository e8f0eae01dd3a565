"""What happens around training: EMA of the trained weights, sample grids, loss columns."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from diffusers.training_utils import EMAModel
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchvision.utils import save_image

from mtdiff.files.writing import write_atomically
from mtdiff.training.parallel import gather_tensor, reshard, shard_like
from mtdiff.types import Batch

log = logging.getLogger(__name__)


class EMA(Callback):
    """Exponential moving average of the trained parameters alone (the frozen base is not copied).

    In use while validating and sampling; at the end of training the model keeps the averaged weights.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self._step = decay, -1
        self._ema: EMAModel | None = None
        self._restored: dict[str, Any] | None = None

    @staticmethod
    def parameters(module: lightning.LightningModule) -> list[nn.Parameter]:
        return [p for p in reshard(module).parameters() if p.requires_grad]

    def on_fit_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._ema = EMAModel(self.parameters(pl_module), decay=self.decay, use_ema_warmup=True, power=0.75)
        if self._restored is not None:
            restored = zip(self._restored["shadow_params"], self.parameters(pl_module), strict=True)
            self._ema.load_state_dict({**self._restored, "shadow_params": [shard_like(s, p) for s, p in restored]})
        self._ema.to(pl_module.device)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._step = trainer.global_step  # not at the fit's start, where a resumed run does not know its step yet

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        if trainer.global_step != self._step:  # an optimiser step, not an accumulated batch
            self.ema.step(self.parameters(pl_module))
            self._step = trainer.global_step

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.swap_in(pl_module)

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.swap_out(pl_module)

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.ema.copy_to(self.parameters(pl_module))

    @property
    def ema(self) -> EMAModel:
        assert self._ema is not None, "EMA: used outside of fit"
        return self._ema

    def swap_in(self, module: lightning.LightningModule) -> None:
        self.ema.store(self.parameters(module))
        self.ema.copy_to(self.parameters(module))

    def swap_out(self, module: lightning.LightningModule) -> None:
        self.ema.restore(self.parameters(module))

    def state_dict(self) -> dict[str, Any]:
        if self._ema is None:
            return {}
        state = self._ema.state_dict()
        return {**state, "shadow_params": [gather_tensor(p) for p in state["shadow_params"]]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._restored = state_dict or None


class SampleGrid(Callback):
    """Every so many steps a picture per task: source, answer and truth of a few fixed examples.

    draw: makes the answers (B, 3, H, W) for the examples. folder: `samples/training` of a run,
    gets `<task>-<step>.png`.
    """

    def __init__(self, examples: Batch, folder: Path, every: int, draw: Callable[[Batch], Tensor]) -> None:
        self.examples, self.folder, self.every, self.draw = examples, folder, every, draw
        self._last = 0

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, pl_module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step == self._last or step % self.every:
            return
        self._last = step
        ema = next((c for c in trainer.callbacks if isinstance(c, EMA)), None)  # type: ignore[attr-defined]
        if ema is not None:
            ema.swap_in(pl_module)
        answers = self.draw(self.examples)
        if ema is not None:
            ema.swap_out(pl_module)
        if not trainer.is_global_zero:  # but all have drawn: a sharded network needs every process
            return
        try:
            for k, task in enumerate(pl_module.tasks):
                rows = self.examples.task == k
                path = self.folder / f"{task}-{step:06d}.png"
                save_grid(path, self.examples, answers, rows, root=self.folder.parents[1])
        except OSError as error:
            log.warning("pictures of step %d cannot be written (%s)", step, error.strerror)


def save_grid(path: Path, batch: Batch, answers: Tensor, rows: Tensor, root: Path) -> None:
    """Three lines: source (grey where unknown), answer, truth. rows (B,) bool. root: the run's folder."""
    lines = [batch.source[rows].cpu(), answers[rows].cpu(), batch.target[rows].cpu()]
    picture = io.BytesIO()
    save_image(torch.cat(lines).clamp(-1, 1) / 2 + 0.5, picture, format="png", nrow=int(rows.sum()))
    write_atomically(path, picture.getvalue(), root)
