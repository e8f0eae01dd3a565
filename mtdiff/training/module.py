"""The LightningModule: encode, noise, predict, average per task. Formulas live in the rooms it calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from mtdiff.backbones.diffusion import Diffusion
from mtdiff.config.settings import Training
from mtdiff.model.conditioning import Dropout, encode_condition, latent_shape
from mtdiff.model.denoiser import Denoiser
from mtdiff.rng import torch_rng
from mtdiff.training.balancing import Balancing, Uniform, backward_without_conflicts, cosine_matrix, measure_layers
from mtdiff.training.encodings import CachedEncoder
from mtdiff.training.optimizers import clip_gradients, make_optimizer
from mtdiff.training.parallel import average_gradients, merge_rows, shard
from mtdiff.types import Batch, Condition, Text


def sum_per_task(losses: Tensor, task: Tensor, tasks: int) -> Tensor:
    """Sum losses (B,) per task (T,). task (B,): whose each is."""
    return torch.zeros(tasks, dtype=losses.dtype, device=losses.device).index_add_(0, task, losses)


@dataclass(frozen=True)
class Draws:
    """What training draws for a batch: noise (B, C, h, w), times t (B,), u (B,) in [0, 1) for conditioning dropout."""

    noise: Tensor
    t: Tensor
    u: Tensor

    @classmethod
    def of(cls, batch: Batch, shape: tuple[int, int, int], diffusion: Diffusion, time_shift: float = 1.0) -> "Draws":
        """Draw from each example's own seed alone, so that neither batches nor ranks nor resumption change it."""
        generators = [torch_rng(seed, "draws") for seed in batch.seed]
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        t = torch.cat([diffusion.times(1, g, time_shift) for g in generators])
        u = torch.cat([torch.rand(1, generator=g) for g in generators])
        device = batch.target.device
        return cls(noise.to(device), t.to(device), u.to(device))


def scale_learning_rate(step: int, steps: int, warmup: int, decay: float) -> float:
    """Return the rate's factor: warm-up, plateau, then a linear decay over the last `decay` share of the steps."""
    tail = round(decay * steps)
    falling = max(0.0, (steps - step) / tail) if tail > 0 else 1.0
    return min(1.0, (step + 1) / max(1, warmup), falling)


class MultiTaskModule(lightning.LightningModule):
    """Trains a Denoiser on batches that mix tasks. The loss is the sum over tasks of the mean prediction error (MTU),
    as `balancing` weighs it. Means are over the batches of all processes together.

    training: of it the optimiser, the rate's course over the steps, and conditioning dropout are read here.
    seed: of what balancing draws. cache: encodings that are looked up in training. fused: one optimiser kernel.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        training: Training,
        *,
        seed: int = 0,
        balancing: Balancing | None = None,
        cache: CachedEncoder | None = None,
        fused: bool = False,
    ) -> None:
        super().__init__()
        self.denoiser, self.tasks, self.seed = denoiser, denoiser.tasks, seed
        self.settings, self.fused, self.cache = training, fused, cache
        self.dropout = Dropout(**training.dropout)
        self.balancing = balancing or Balancing(Uniform())
        self.register_buffer("factors", self.balancing.factors(self.tasks), persistent=False)
        self.diffusion = Diffusion(denoiser.backbone.scheduler)
        self._empty: Text | None = None
        self._validated: dict[int, tuple[int, float]] = {}  # by example: task, error
        self._means: Tensor | None = None  # of the tasks, with their graph, from training_step to backward
        self.strict_loading = False  # a checkpoint holds what is trained, not the frozen base

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noisy, t, condition, target = self.prepare(batch, self.dropout, self.balancing.time_shift)
        errors = self.denoiser.errors(noisy, t, condition, target)  # (B,)
        weighted = self.balancing.weighting(errors, t, self.diffusion)  # (B,)
        weighted = self.add_extra(weighted, self.denoiser.extra_errors(noisy, t, condition))
        number = len(self.tasks)
        count = sum_per_task(torch.ones_like(errors), batch.task, number)
        plain, count = self.over_ranks(torch.stack([sum_per_task(errors.detach(), batch.task, number), count]))
        means = self.trainer.world_size * sum_per_task(weighted, batch.task, number) / count.clamp_min(1)  # (T,)
        self._means = means * self.factors  # type: ignore[operator]
        self.log_losses("train", plain, count)
        return self._means.sum()

    def add_extra(self, weighted: Tensor, extra: Mapping[str, Tensor]) -> Tensor:
        """Weigh the prediction errors (B,) against what the method adds to them, and log its terms by name."""
        factor = self.denoiser.method.error_weight
        total = weighted if factor == 1 else factor * weighted
        for name, term in extra.items():
            total = total + term
            self.log(f"train/{name}", term.detach().mean(), batch_size=len(term))
        return total

    def over_ranks(self, sums: Tensor) -> Tensor:
        """Sum over the processes; gradients are averaged over them, hence `world_size` in `training_step`."""
        return self.trainer.strategy.reduce(sums, reduce_op="sum")  # type: ignore[return-value]

    def log_losses(self, stage: str, sums: Tensor, count: Tensor) -> None:
        """Log the plain error, whatever the balancing: means per task, and their sum."""
        means = sums / count.clamp_min(1)
        for name, value, n in zip(self.tasks, means, count.tolist(), strict=True):
            if n > 0:
                self.log(f"{stage}/loss/{name}", value, batch_size=int(n))
        self.log(f"{stage}/loss", means.sum(), prog_bar=True, batch_size=int(count.sum()))

    def training_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Compute `errors` as training draws them: with conditioning dropout, at shifted times."""
        return self.errors(batch, self.dropout, self.balancing.time_shift)

    def errors(self, batch: Batch, dropout: Dropout | None = None, time_shift: float = 1.0) -> tuple[Tensor, Tensor]:
        """Compute the mean squared error of each sample's prediction (B,), and its time (B,)."""
        noisy, t, condition, target = self.prepare(batch, dropout, time_shift)
        return self.denoiser.errors(noisy, t, condition, target), t

    def prepare(
        self, batch: Batch, dropout: Dropout | None, time_shift: float
    ) -> tuple[Tensor, Tensor, Condition, Tensor]:
        """Encode a batch and noise it: noisy latents, times (B,), conditions, and what is to be predicted."""
        backbone = self.denoiser.backbone
        draws = Draws.of(batch, latent_shape(backbone, batch), self.diffusion, time_shift)
        encoder = backbone if self.cache is None else self.cache
        latent = encoder.encode(batch.target)
        condition = encode_condition(encoder, batch, self.denoiser.method.encode_extra)
        noise = draws.noise.to(latent)
        noisy, target = (f(latent, noise, draws.t) for f in (self.diffusion.noisy, self.diffusion.target))
        if (process := self.denoiser.method.process) is not None:
            noisy, condition = process.mix(noisy, draws.t, condition)
        if dropout is not None:
            condition = dropout(condition, self.empty_text(), draws.u)
            condition = self.denoiser.method.draw_condition(condition, batch.seed)
        return noisy, draws.t, condition, target

    def empty_text(self) -> Text:
        """Encode the empty prompt, once for each device."""
        if self._empty is None or self._empty.tokens.device != self.device:
            self._empty = self.denoiser.backbone.embed([""])
        return self._empty

    def on_validation_epoch_start(self) -> None:
        self._validated = {}

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        errors, _ = self.errors(batch)
        self._validated.update(zip(batch.seed, zip(batch.task.tolist(), errors.tolist(), strict=True), strict=True))

    def on_validation_epoch_end(self) -> None:
        """Log the validation error, where an example counts once, whichever process has seen it and however often."""
        task, errors = zip(*merge_rows(self._validated).values(), strict=True)
        ids, values = torch.tensor(task), torch.tensor(errors, dtype=torch.float64)
        sums = (
            sum_per_task(v, ids, len(self.tasks)).float().to(self.device) for v in (values, torch.ones_like(values))
        )
        self.log_losses("validation", *sums)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Make one backward pass; under PCGrad one for each task, whose gradients are projected and summed."""
        if not self.balancing.pcgrad:
            super().backward(loss, *args, **kwargs)
            return
        assert self._means is not None
        parameters = {name: p for name, p in self.named_parameters() if p.requires_grad}
        key = (self.seed, "pcgrad", self.global_step)
        gram, grams = backward_without_conflicts(loss, self._means, list(parameters.values()), key)
        for (a, one), (b, other) in combinations(enumerate(self.tasks), 2):
            self.log(f"train/cosine/{one}/{other}", cosine_matrix(gram)[a, b].float())
        for layer, cosine in measure_layers(list(parameters), grams).items():
            self.log(f"train/layer_cosine/{layer}", cosine)

    def on_after_backward(self) -> None:
        if self.device_mesh is not None:  # only the denoiser is sharded: what stands beside it is averaged here
            average_gradients([p.grad for p in self.balancing.parameters() if p.grad is not None])

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip in place of Lightning, which refuses fused optimisers (they could scale gradients; here none does)."""
        if gradient_clip_val:
            clip_gradients((p for group in optimizer.param_groups for p in group["params"]), gradient_clip_val)

    def configure_model(self) -> None:
        if self.device_mesh is not None:  # of a strategy that shards
            shard(self.denoiser, self.device_mesh["data_parallel"])

    def on_train_start(self) -> None:
        if not self.balancing.pcgrad or self.trainer.world_size == 1:
            return
        if not isinstance(self.trainer.model, DistributedDataParallel):
            raise ValueError("balancing.pcgrad=true: expected trainer.strategy=ddp or one process")
        self.trainer.model.require_backward_grad_sync = False  # gradients of tasks are averaged by ourselves

    def configure_optimizers(self) -> OptimizerLRScheduler:
        settings = self.settings
        groups = self.parameter_groups(settings.lr)
        learned = list(self.balancing.parameters())
        if learned:
            groups.append({"params": learned, "lr": self.balancing.weighting.lr, "weight_decay": 0.0})
        optimizer = make_optimizer(groups, settings, self.fused)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: scale_learning_rate(step, settings.steps, settings.warmup, settings.decay)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def parameter_groups(self, lr: float) -> list[dict[str, Any]]:
        """Group what is trained by the method's factors of the learning rate; those of factor 1 come first."""
        groups: dict[float, list[Any]] = {1.0: []}
        for name, parameter in self.denoiser.trained_parameters().items():
            groups.setdefault(self.denoiser.method.rate(name), []).append(parameter)
        return [{"params": params, "lr": factor * lr} for factor, params in groups.items() if params]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is trained or added, as the strategy has gathered it (on the first process alone, if sharded)."""
        kept = {f"denoiser.backbone.denoiser.{k}" for k in self.denoiser.adapter()}
        kept |= {f"balancing.{k}" for k in self.balancing.state_dict()}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
