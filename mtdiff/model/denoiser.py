"""The one calling convention that losses, samplers and cost counters know: `denoiser(noisy, t, condition)`."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone
from mtdiff.methods.base import Method
from mtdiff.methods.routing import Routing
from mtdiff.types import Condition


class Denoiser(nn.Module):
    """A backbone adapted by a method for a list of tasks. noisy (B, C, h, w), t (B,) -> prediction (B, C, h, w)."""

    def __init__(self, backbone: Backbone, method: Method, tasks: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.method, self.tasks, self.routing = method, tuple(tasks), Routing()
        base = set(backbone.denoiser.state_dict())
        method.adapt(backbone, self.routing, self.tasks)
        for name, parameter in backbone.denoiser.named_parameters():
            if name.startswith(tuple(f"{module}." for module in backbone.idle())):
                parameter.requires_grad_(False)
        backbone.denoiser.train(False)
        self._added = set(backbone.denoiser.state_dict()) - base

    @property
    def device(self) -> torch.device:
        """The device of the weights, which may move."""
        return next(self.parameters()).device

    def forward(self, noisy: Tensor, t: Tensor, condition: Condition) -> Tensor:
        return self.method.layout(self._predict, noisy, t, condition)

    def errors(self, noisy: Tensor, t: Tensor, condition: Condition, target: Tensor) -> Tensor:
        """Return the mean squared error (B,) against target (B, C, h, w), over what the method's layout covers."""
        return self.method.layout.errors(self._predict, noisy, t, condition, target)

    def extra_errors(self, noisy: Tensor, t: Tensor, condition: Condition) -> Mapping[str, Tensor]:
        """Return what the method adds to the loss of the batch that `errors` was asked for last: (B,) by name."""
        return self.method.extra_errors(self.backbone, noisy, t, condition)

    def _predict(self, packed: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.routing.write(condition.task, t, condition.budget)
        return self.backbone.predict(packed, t, condition)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that are trained, by their name in the denoising network."""
        return {k: p for k, p in self.backbone.denoiser.named_parameters() if p.requires_grad}

    def adapter(self) -> dict[str, Tensor]:
        """Return what the method trains or adds: all that a run has to keep beside the base."""
        trained = self.trained_parameters()
        state = self.backbone.denoiser.state_dict()
        return {k: v.detach() for k, v in state.items() if k in trained or k in self._added}

    @torch.no_grad()
    def load_adapter(self, state: Mapping[str, Tensor]) -> None:
        """Load what `adapter` gave. Every name and shape must fit this method on this base."""
        own = self.adapter()
        if set(own) != set(state):
            odd = sorted(set(own) ^ set(state))
            raise ValueError(f"adapter: {len(odd)} tensors do not belong to this method and base, first {odd[0]!r}")
        for name, tensor in state.items():
            if own[name].shape != tensor.shape:
                raise ValueError(f"adapter: {name} has shape {tuple(tensor.shape)}, expected {tuple(own[name].shape)}")
            own[name].copy_(tensor)
