"""FLOPs of a denoiser in both conventions, counted by `torch.utils.flop_counter` while it runs, layout included.

`flops` counts 2 per multiply-add and includes the attention products QK and AV; `flops_no_attn` leaves those out, as
the MTU paper's table does. A network on the meta device is counted as well as a real one.

Letters: B batch, K predictions, C latent channels, h w latent size.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mtdiff.backbones.base import Backbone
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.model.denoiser import Denoiser
from mtdiff.model.sampling import Guidance, guide
from mtdiff.tasks.base import Task
from mtdiff.tasks.takes import Takes
from mtdiff.types import Condition, Text


@dataclass(frozen=True)
class Flops:
    """FLOPs of one call. `total` includes the attention products, `attention` is those products alone."""

    total: int
    attention: int

    def as_dict(self, times: int = 1) -> dict[str, int]:
        """{flops, flops_no_attn} of so many calls."""
        return {"flops": times * self.total, "flops_no_attn": times * (self.total - self.attention)}


# Counting


def _attention_flop(query: Any, key: Any, value: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    """2 per multiply-add of QK and AV; shapes (B, heads, tokens, width)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


# torch before 2.15 counts the fused kernel of the CPU as nothing
CPU_KERNEL = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flop}


def count_flops(root: nn.Module, call: Callable[[], object]) -> Flops:
    """Count the FLOPs of one call. root: the first module that it enters.

    Attention products are what an attention module multiplies batch-wise by itself, that is outside of its projections.
    """
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=CPU_KERNEL) as counter:
        call()
    batched = {name: _batched_flops(ops) for name, ops in counter.get_flop_counts().items()}
    attention = sum(
        batched.get(name, 0) - _child_flops(name, module, batched)
        for name, module in root.named_modules(prefix=type(root).__name__)
        if isinstance(module, Attention | AttentionModuleMixin)
    )
    return Flops(counter.get_total_flops(), attention)


def _batched_flops(ops: Mapping[Any, int]) -> int:
    """Sum the FLOPs of batch-wise products, fused or not."""
    return sum(n for op, n in ops.items() if "bmm" in str(op) or "attention" in str(op))


def _child_flops(name: str, module: nn.Module, batched: Mapping[str, int]) -> int:
    """Sum those of a module's children; a plain list of modules is never entered itself, so its members are asked."""
    children = ((f"{name}.{child}", part) for child, part in module.named_children())
    return sum(batched[path] if path in batched else _child_flops(path, part, batched) for path, part in children)


def count_step_flops(denoiser: Denoiser, rows: Condition) -> Flops:
    """Count one call of the denoiser for K rows of a condition."""
    noisy, t = make_inputs(denoiser.backbone, rows)
    with values_at_hand(denoiser):
        return count_flops(denoiser, lambda: denoiser(noisy, t, rows))


@contextmanager
def values_at_hand(denoiser: Denoiser) -> Iterator[None]:
    """Let the layout of a network on the meta device work on the CPU, since it may look at values."""
    backbone, device = denoiser.backbone, device_of(denoiser.backbone)
    if device.type != "meta":
        yield
        return
    predict = backbone.predict

    def on_meta(packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        there = condition.to(device)
        denoiser.routing.write(there.task, t.to(device), there.budget)
        return torch.zeros(predict(packed.to(device), t.to(device), there).shape)

    backbone.predict = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del backbone.predict


def device_of(backbone: Backbone) -> torch.device:
    return next(backbone.denoiser.parameters()).device


# Inputs of the right shape


def has_source(task: Task) -> bool:
    """Whether a task's examples come with a source image."""
    return Takes.of(task).image


def encode_prompt(backbone: Backbone) -> Text:
    """Encode one prompt; a text encoder that has shapes alone gives ones on the CPU."""

    def fill_meta(x: Tensor) -> Tensor:
        return torch.ones(x.shape, dtype=x.dtype) if x.is_meta else x

    text = backbone.embed(["a picture"])
    return Text(fill_meta(text.tokens), {k: fill_meta(v) for k, v in text.extra.items()})


def make_condition(
    backbone: Backbone, text: Text, source: bool, task: int = 0, reads: Mapping[str, tuple[int, ...]] | None = None
) -> Condition:
    """Make the condition of one sample (B = 1) on the text's device, with a source latent of zeros or without one.

    reads: what the method reads besides (`Method.reads`), of which the sample has all.
    """
    latent = torch.zeros(1, *backbone.latent_shape, device=text.tokens.device)
    mask = torch.full_like(latent[:, :1], 0.0 if source else 1.0)
    extra = {name: torch.ones(1, *shape, device=latent.device) for name, shape in (reads or {}).items()}
    ids = torch.tensor([task], device=latent.device)
    return Condition(latent, mask, text.tokens, ids, {**text.extra, **extra})


def guide_row(row: Condition, empty: Text, guidance: Guidance) -> Condition:
    """Return the K rows that a guided step predicts for one picture."""
    return guide(row, empty, [guidance]).condition


def make_inputs(backbone: Backbone, rows: Condition) -> tuple[Tensor, Tensor]:
    """Make noisy latents (B, C, h, w) and times (B,) that fit a condition."""
    t = Diffusion(backbone.scheduler).times(len(rows), torch.Generator().manual_seed(0))
    return torch.zeros_like(rows.source), t.to(rows.source.device)
