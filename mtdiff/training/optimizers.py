"""Optimisers by name, and the clipping of gradients that works with all of them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mtdiff.config.settings import Training
from mtdiff.training.parallel import gather_tensor


def make_optimizer(groups: list[dict[str, Any]], training: Training, fused: bool) -> torch.optim.Optimizer:
    """Make adamw, adam (weight decay added to the gradient), or adamw_8bit (arXiv 2110.02861) over groups.

    fused: one kernel for all parameters; the 8-bit one always has it.
    """
    options: dict[str, Any] = {"lr": training.lr, "weight_decay": training.weight_decay, "betas": tuple(training.betas)}
    if training.optimizer == "adamw_8bit":
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **options)
    cls = torch.optim.AdamW if training.optimizer == "adamw" else torch.optim.Adam
    return cls(groups, fused=fused or None, **options)


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their norm together is at most `limit`; returns the norm before, ().

    As torch's `clip_grad_norm_`, but sharded and whole parameters may stand side by side.
    """
    given = [p for p in parameters if p.grad is not None]
    kinds = [[p for p in given if isinstance(p.grad, DTensor) == sharded] for sharded in (True, False)]
    gradients = [[p.grad for p in kind if p.grad is not None] for kind in kinds if kind]
    norms = [gather_tensor(torch.nn.utils.get_total_norm(kind)) for kind in gradients]
    if not norms:
        return torch.zeros(())
    norm = torch.stack(norms).norm()
    for kind in kinds:
        torch.nn.utils.clip_grads_with_norm_(kind, limit, norm)
    return norm
