"""Layers with one set of weights a task, which every method shares.

Letters: B batch, T tasks, C channels, h w latent size.
"""

import torch
from torch import Tensor, nn

from mtdiff.methods.routing import Routing


class TaskConv2d(nn.Module):
    """One convolution per task, each starting as the given one with `extra` zero input channels (InstructPix2Pix).

    weight (T, C_out, C_in + extra, k, k); bias (T, C_out). A sample's convolution gets gradient from that sample alone.
    """

    def __init__(self, conv: nn.Conv2d, extra: int, tasks: int, routing: Routing) -> None:
        super().__init__()
        if conv.groups != 1 or conv.padding_mode != "zeros":
            raise ValueError("TaskConv2d: expected a plain convolution (groups=1, zero padding)")
        self.routing, self.stride, self.padding, self.dilation = routing, conv.stride, conv.padding, conv.dilation
        grown = torch.cat([conv.weight, conv.weight.new_zeros(conv.out_channels, extra, *conv.kernel_size)], 1)
        self.weight = nn.Parameter(grown.detach().repeat(tasks, 1, 1, 1, 1))
        bias = torch.zeros_like(conv.weight[:, 0, 0, 0]) if conv.bias is None else conv.bias
        self.bias = nn.Parameter(bias.detach().repeat(tasks, 1))

    def forward(self, x: Tensor) -> Tensor:
        tasks, out = self.bias.shape
        # Every task's output for every sample, then each sample's own: T times a layer that is small.
        y = nn.functional.conv2d(
            x,
            self.weight.flatten(0, 1),
            self.bias.flatten(),
            self.stride,
            self.padding,
            self.dilation,  # type: ignore[arg-type]
        )
        y = y.unflatten(1, (tasks, out))  # (B, T, C_out, h, w)
        return y[torch.arange(len(x), device=x.device), self.routing.task]  # (B, C_out, h, w)

    def fold(self, task: int) -> nn.Conv2d:
        """The plain convolution of one task."""
        out, channels, *kernel = self.weight.shape[1:]
        conv = nn.utils.skip_init(
            nn.Conv2d, channels, out, kernel, self.stride, self.padding, self.dilation, device=self.weight.device
        )
        conv.weight, conv.bias = nn.Parameter(self.weight[task].detach()), nn.Parameter(self.bias[task].detach())
        return conv


class TaskLayerNorm(nn.Module):
    """One affine LayerNorm per task, each starting as the given one. weight, bias (T, C).

    device: of the network, which a norm without weights (those of diffusion transformers) cannot tell.
    """

    def __init__(self, norm: nn.LayerNorm, tasks: int, routing: Routing, device: torch.device | None = None) -> None:
        super().__init__()
        self.routing, self.shape, self.eps = routing, norm.normalized_shape, norm.eps
        width = norm.normalized_shape[-1]
        weight = torch.ones(width, device=device) if norm.weight is None else norm.weight.detach()
        bias = torch.zeros_like(weight) if norm.bias is None else norm.bias.detach()
        self.weight, self.bias = nn.Parameter(weight.repeat(tasks, 1)), nn.Parameter(bias.repeat(tasks, 1))

    def forward(self, x: Tensor) -> Tensor:
        task = self.routing.task
        normed = nn.functional.layer_norm(x, self.shape, eps=self.eps)  # (B, N, C)
        return torch.addcmul(self.bias[task].unsqueeze(1), normed, self.weight[task].unsqueeze(1))

    def fold(self, task: int) -> nn.LayerNorm:
        """The plain LayerNorm of one task."""
        norm = nn.LayerNorm(self.shape, self.eps, device=self.weight.device)
        norm.weight, norm.bias = nn.Parameter(self.weight[task].detach()), nn.Parameter(self.bias[task].detach())
        return norm
