"""A GEGLU feed-forward layer whose hidden units are weighed by expert, one expert after another, for a CPU whose caches
do not hold all hidden units.

Autograd over slices of one weight would add up a gradient of the whole weight for every expert. Here each expert's
gradient is written into its slice. `docs/measured/experts.json` has this, a plain loop over separate experts and all
experts at once.

Letters: R rows (samples x tokens), B samples, C width, N experts, M' hidden units of one.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def one_by_one(x: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, w: Tensor) -> Tensor:
    """`GegluLoop` in the type that autocast asks for, or else the weights' own."""
    lower = torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if lower else weight.dtype
    with torch.autocast("cpu", enabled=False):
        cast = [None if tensor is None else tensor.to(dtype) for tensor in (x, weight, bias, output, w)]
        return GegluLoop.apply(*cast)


class GegluLoop(torch.autograd.Function):
    """sum_i w_i O_i (a_i * gelu(g_i)), [a_i, g_i] = W_i x + b_i: x (B, L, C), W (2 N M', C) with all values before all
    gates, b (2 N M') or None, O (C, N M'), w (B, N) -> (B, L, C). All of one dtype, on a CPU.

    First derivatives only.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, output: Tensor, w: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])  # (R, C)
        out, kept = torch.zeros_like(rows), []
        for i, (units, gates) in enumerate(slices(output, w)):
            a, g = (product(rows, weight[part], None if bias is None else bias[part]) for part in (units, gates))
            hidden = scale_units(a * torch.nn.functional.gelu(g), w[:, i])  # (R, M')
            out.addmm_(hidden, output[:, units].t())
            kept += [a, g]
        ctx.save_for_backward(x, weight, bias, output, w, *kept)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, output, w, *kept = ctx.saved_tensors
        rows, grad = x.reshape(-1, x.shape[-1]), grad.reshape(-1, x.shape[-1])  # (R, C)
        dx, dweight, dbias, doutput, dw = (
            torch.empty_like(tensor) if needed else None
            for tensor, needed in zip((rows, weight, bias, output, w), ctx.needs_input_grad, strict=True)
        )
        if dx is not None:
            dx.zero_()
        for i, (units, gates) in enumerate(slices(output, w)):
            a, g = kept[2 * i : 2 * i + 2]
            active = torch.nn.functional.gelu(g)
            unit, dunit = a * active, grad @ output[:, units]  # (R, M'), before they are weighed
            if dw is not None:
                dw[:, i] = (unit * dunit).view(len(w), -1).sum(1)
            if doutput is not None:
                torch.mm(grad.t(), scale_units(unit, w[:, i]), out=doutput[:, units])
            dunit = scale_units(dunit, w[:, i])
            dg = torch.ops.aten.gelu_backward(dunit * a, g)
            for part, d in ((units, dunit.mul_(active)), (gates, dg)):
                if dweight is not None:
                    torch.mm(d.t(), rows, out=dweight[part])
                if dbias is not None:
                    torch.sum(d, 0, out=dbias[part])
                if dx is not None:
                    dx.addmm_(d, weight[part])
        return None if dx is None else dx.view(x.shape), dweight, dbias, doutput, dw


def slices(output: Tensor, w: Tensor) -> list[tuple[slice, slice]]:
    """For every expert: its units, which are the values' rows of the first weight and the columns of the output weight,
    and its gates' rows of the first weight."""
    experts = w.shape[1]
    each = output.shape[1] // experts
    every = [slice(i * each, (i + 1) * each) for i in range(2 * experts)]
    return list(zip(every[:experts], every[experts:], strict=True))


def product(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(R, C) -> (R, M')."""
    return rows @ weight.t() if bias is None else torch.addmm(bias, rows, weight.t())


def scale_units(units: Tensor, w: Tensor) -> Tensor:
    """Units (R, M') in place, times their samples' w (B)."""
    return units.view(len(w), -1).mul_(w.unsqueeze(1)).view(units.shape)
