"""Heads of MT-Diffusion (arXiv 2407.17571) on a denoiser's own features: another picture, and a label.

They are computed inside of the denoiser's forward pass, by hooks on its modules, and read after it.

Letters: B batch, C latent channels, D width, L labels, h w latent size.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from mtdiff.backbones.base import Backbone
from mtdiff.backbones.ending import join_patches, pool_features

HEADS = "joint_heads"
"""The heads' name in the denoising network."""
CLASSIFIER = (64, 128)
"""Channels of the classifier on the output."""


class Heads(nn.Module):
    """picture: a copy of the output's norm and convolution. label: of `M` a layer on the middle, of `E` a classifier on
    the network's output.

    codes (L, C): what a label is in the noisy latent, the same at every place: standard normal, drawn once and kept.
    """

    codes: Tensor

    def __init__(self, backbone: Backbone, label: Literal["M", "E"], classes: int) -> None:
        super().__init__()
        ending, middle, channels = backbone.ending(), backbone.middle(), backbone.latent_shape[0]
        like = next(ending.copy.parameters())
        self.picture, self.patch, self.channels = ending.copy.requires_grad_(True), ending.patch, channels
        codes = torch.randn(classes, channels, generator=torch.Generator().manual_seed(0))
        self.register_buffer("codes", codes.to(like.device), persistent=False)
        self._read: dict[str, Tensor] = {}
        self._handles = [ending.first.register_forward_pre_hook(self._read_last)]
        if label == "M":
            self.label: nn.Module = nn.Linear(middle.width, classes, device=like.device)
            self._handles.append(middle.module.register_forward_hook(self._read_middle))
        else:
            self.label = classify_output(channels, classes).to(like.device)
            self._handles.append(backbone.denoiser.register_forward_hook(self._read_output))

    def __getstate__(self) -> dict[str, Any]:
        """Without what was read last, which may hang on a graph that cannot be copied."""
        return {**self.__dict__, "_read": {}}

    def _read_last(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self._read["picture"] = self.picture(given[0])

    def _read_middle(self, module: nn.Module, given: Any, out: Tensor | tuple[Tensor, ...]) -> None:
        self._read["label"] = self.label(pool_features(out))

    def _read_output(self, module: nn.Module, given: Any, out: Any) -> None:
        self._read["label"] = self.label(out.sample[:, : self.channels])

    def read_picture(self, height: int, width: int) -> Tensor:
        """The other picture's latent (B, C, h, w) that the last call of the denoiser gave."""
        found = self._read["picture"].float()
        maps = found if self.patch is None else join_patches(found, self.patch, height, width)
        return maps[:, : self.channels]  # what is beyond is a learned variance, which nothing uses

    def read_label(self) -> Tensor:
        """Logits (B, L) that the last call of the denoiser gave."""
        return self._read["label"].float()

    def leave(self) -> None:
        """Read no more."""
        for handle in self._handles:
            handle.remove()


def classify_output(channels: int, classes: int) -> nn.Sequential:
    """(B, C, h, w) -> logits (B, L): two strided convolutions, the mean over places, one layer."""
    first, second = CLASSIFIER
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, 2, 1),
        nn.SiLU(),
        nn.Conv2d(first, second, 3, 2, 1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(second, classes),
    )
