"""DTR: denoising task routing (arXiv 2310.07138, ICLR 2024).

z + Block(m * z), with m a fixed binary mask over the C channels that enter a block: a window of floor(beta C) channels
that slides from the first channels to the last as the timestep t goes from 0 to T-1,
start = round((C - width) (t / (T-1))^alpha).
In a transformer block the masked stream runs through the whole block and z * (1 - m) is added back, as in the authors'
code. Blocks of equal width share their mask; t is the training timestep in sampling too. Everything is trained, with
the task-wise input convolution, the same as MTU's. No parameter is added, and no compute saved.

Not given in the paper, decided here:
- a UNet is masked at the entrance of the residual branch of every convolution block and of every transformer;
  shortcuts, skip connections, up- and down-sampling stay whole;
- where text and picture share a block, the picture's stream is masked and the text's stays whole;
- `routing="task"` (ours) spreads the windows evenly over the tasks; `task_timestep` (ours) lets the timestep's window
  slide within the task's, so its width is floor(beta floor(beta C));
- a flow's real time t in (0, T] counts as timestep ceil(t) - 1;
- the control `random` (the paper's R-TR) keeps `width` channels drawn by a fixed hash of (block, channel, timestep and
  task), which needs no table.

Letters: B batch, C channels, L tokens, T timesteps, K tasks.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone, Site
from mtdiff.backbones.diffusion import Diffusion
from mtdiff.methods.base import CannotFold, Method, fold_input, widen_input
from mtdiff.methods.routing import Routing

ROUTINGS = ("timestep", "task", "task_timestep")


class DTR(Method):
    """routing: what chooses the mask. alpha, beta: as published. random: R-TR, random channels in place of windows."""

    def __init__(
        self,
        routing: Literal["timestep", "task", "task_timestep"] = "timestep",
        alpha: float = 4.0,
        beta: float = 0.8,
        random: bool = False,
    ) -> None:
        if routing not in ROUTINGS:
            raise ValueError(f"method.routing={routing!r}: expected one of {', '.join(ROUTINGS)}")
        if alpha <= 0:
            raise ValueError(f"method.alpha={alpha}: expected a positive number")
        if not 0 < beta <= 1:
            raise ValueError(f"method.beta={beta}: expected more than 0 and at most 1")
        self.routing, self.alpha, self.beta, self.random = routing, alpha, beta, random

    @property
    def equals_base(self) -> bool:
        return False

    def adapt(self, backbone: Backbone, routing: Routing, tasks: Sequence[str]) -> None:
        backbone.denoiser.requires_grad_(True)
        diffusion = Diffusion(backbone.scheduler)
        for number, site in enumerate(backbone.sites("block")):
            by_time, by_task, width = self.places(site.width, diffusion.steps, len(tasks))
            block = number if self.random else None
            site.replace(Masked(site, by_time, by_task, width, routing, diffusion.flow, block))
        widen_input(backbone, self.layout.extra_channels(backbone.latent_shape[0]), len(tasks), routing)

    def places(self, channels: int, steps: int, tasks: int) -> tuple[list[int], list[int], int]:
        """By timestep, by task, and the width. Their sum is where the window starts, or the number of a random mask."""
        by_time, by_task, outer = [0] * steps, [0] * tasks, channels
        if self.routing != "timestep":
            width = int(self.beta * outer)
            by_task = [k * steps for k in range(tasks)] if self.random else starts(outer - width, tasks, 1.0)
            outer = width
        if self.routing != "task":
            width = int(self.beta * outer)
            by_time = list(range(steps)) if self.random else starts(outer - width, steps, self.alpha)
            outer = width
        return by_time, by_task, outer

    def fold(self, backbone: Backbone, task: int) -> None:
        raise CannotFold("DTR masks the input of every block, which no plain denoiser does")

    def simplify(self, backbone: Backbone, task: int) -> None:
        """The same weights without the masks."""
        for site in backbone.sites("block"):
            if isinstance(site.module, Masked):
                site.replace(site.module.block)
        fold_input(backbone, task)


def starts(room: int, number: int, alpha: float) -> list[int]:
    """round(room (k / (number - 1))^alpha) for k = 0..number-1."""
    return [round(room * (k / max(1, number - 1)) ** alpha) for k in range(number)]


class Masked(nn.Module):
    """A block, or the module that opens its residual branch, behind a mask. z (B, C, h, w) or (B, L, C).

    by_time (T,), by_task (K,), width: what `DTR.places` gives. number: of the block, for random masks; None: windows.
    """

    by_time: Tensor
    by_task: Tensor

    def __init__(
        self,
        site: Site,
        by_time: list[int],
        by_task: list[int],
        width: int,
        routing: Routing,
        flow: bool,
        number: int | None,
    ) -> None:
        super().__init__()
        self.block, self.branch, self.channels, self.width = site.module, site.branch, site.width, width
        self.routing, self.flow, self.number = routing, flow, number
        device = next(site.module.parameters()).device
        self.register_buffer("by_time", torch.tensor(by_time, device=device), persistent=False)
        self.register_buffer("by_task", torch.tensor(by_task, device=device), persistent=False)

    def mask(self, task: Tensor, t: Tensor) -> Tensor:
        """(B, C) bool: the channels that the block sees, `width` in every row."""
        step = (t.ceil() - 1).clamp(min=0).long() if self.flow else t.long()
        place = (self.by_time[step] + self.by_task[task]).unsqueeze(1)  # (B, 1)
        channel = torch.arange(self.channels, device=place.device)  # (C,)
        if self.number is None:
            return (channel >= place) & (channel < place + self.width)
        scores = scramble(scramble(scramble(place) + channel) + self.number)  # (B, C)
        return torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(self.width, 1).indices, True)

    def forward(self, hidden_states: Tensor, *args: Any, **options: Any) -> Any:
        """hidden_states: z, by the name that diffusers' blocks give it. A joint block returns text and z."""
        z = hidden_states
        m = self.mask(self.routing.task, self.routing.t).to(z.dtype)
        m = m[:, :, None, None] if z.dim() == 4 else m[:, None]
        out = self.block(m * z, *args, **options)
        if self.branch:
            return out
        if isinstance(out, tuple):
            return (*out[:-1], z * (1 - m) + out[-1])
        return z * (1 - m) + out


def scramble(x: Tensor) -> Tensor:
    """A fixed pseudo-random number for each whole number, int64 with overflow (multiply and shift, as hashes do)."""
    for shift in (31, 29):
        x = (x ^ (x >> shift)) * 0x5851F42D4C957F2D + 0x14057B7EF767814F
    return x ^ (x >> 32)
