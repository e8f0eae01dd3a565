"""ME-CondConv of A-SDM (arXiv 2406.00210): several kernels a convolution, mixed by a router into one for each sample.

y = (sum_k a_k W_k) * x + b, with a the softmax of the router's logits, so that one convolution a sample is computed.
As published the router looks at the features, here at their mean over the picture as in CondConv (1904.04971); its form
is not given. Ours: it looks at the sample's task, or at task and time, and then the mixture of a fixed pair is a plain
convolution.

All kernels start as the given one: whatever the router says, the layer starts as it was. The router starts at random:
from equal kernels a router of zeros would give each the same gradient for ever.

Letters: B batch, K kernels, T tasks, O and I output and input channels, D width of the embeddings, h w size.
"""

from typing import Literal

import torch
from diffusers.models.embeddings import get_timestep_embedding
from torch import Tensor, nn

from mtdiff.methods.base import CannotFold
from mtdiff.methods.routing import Routing

Route = Literal["task", "task_time", "features"]
ROUTES = ("task", "task_time", "features")
WIDTH = 32  # of the embeddings of task and time; not given in the paper


class MixedConv2d(nn.Module):
    """kernels (K, O, I, k, k), bias (O,): trained. task_embedding (T, D): where the route is by task.

    The time of the schedule is embedded as diffusers' networks embed it, without weights of its own.
    """

    task_embedding: nn.Parameter | None

    def __init__(self, conv: nn.Conv2d, kernels: int, tasks: int, route: Route, routing: Routing) -> None:
        super().__init__()
        if conv.groups != 1 or conv.padding_mode != "zeros" or conv.bias is None:
            raise ValueError("MixedConv2d: expected a plain convolution with a bias (groups=1, zero padding)")
        self.routing, self.route, self.stride, self.padding = routing, route, conv.stride, conv.padding
        self.dilation = conv.dilation
        self.kernels = nn.Parameter(conv.weight.detach().repeat(kernels, 1, 1, 1, 1))
        self.bias = conv.bias
        device = conv.weight.device
        width = conv.in_channels if route == "features" else WIDTH
        self.router = nn.Linear(width, kernels, device=device)
        embedding = None if route == "features" else nn.Parameter(torch.randn(tasks, WIDTH, device=device))
        self.register_parameter("task_embedding", embedding)

    def weights(self, task: Tensor, t: Tensor, x: Tensor | None = None) -> Tensor:
        """Weights of the kernels (B, K). task, t (B,); x (B, I, h, w), which only a route by features reads."""
        if self.task_embedding is None:
            assert x is not None
            seen = x.mean((2, 3))  # (B, I)
        else:
            seen = self.task_embedding[task]  # (B, D)
            if self.route == "task_time":
                seen = seen + get_timestep_embedding(t, WIDTH).to(seen)
        return self.router(seen).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, I, h, w) -> (B, O, h', w'): as many groups as samples, each with the kernel mixed for it."""
        mixed = torch.einsum("bk,koihw->boihw", self.weights(self.routing.task, self.routing.t, x), self.kernels)
        b, o = mixed.shape[:2]
        mixed = mixed.to(x.dtype).flatten(0, 1)  # (B O, I, k, k)
        y = nn.functional.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            mixed,
            None,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            self.dilation,
            groups=b,
        )
        return y.reshape(b, o, *y.shape[2:]) + self.bias.to(y.dtype)[:, None, None]

    @torch.no_grad()
    def fold(self, task: int, t: float | None = None) -> nn.Conv2d:
        """The plain convolution of a task, or of a task at a time t. CannotFold where the route looks at more."""
        if self.route == "features" or (self.route == "task_time" and t is None):
            raise CannotFold(f"method.route={self.route}: a kernel of its own for every picture or time of a task")
        device = self.kernels.device
        one = torch.tensor([task], device=device), torch.tensor([0.0 if t is None else float(t)], device=device)
        weight = torch.einsum("bk,koihw->oihw", self.weights(*one), self.kernels)
        o, i, *size = weight.shape
        conv = nn.utils.skip_init(nn.Conv2d, i, o, size, self.stride, self.padding, self.dilation, device=device)
        conv.weight, conv.bias = nn.Parameter(weight), nn.Parameter(self.bias.detach().clone())
        return conv
