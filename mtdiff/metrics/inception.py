"""Features of the Inception network that FID and KID are defined on, prepared as clean-fid does (arXiv 2104.11222).

Pictures become bytes, as if saved; each colour is resized to 299 px by PIL (bicubic, antialiased, in float), clipped to
[0, 255]; the TorchScript of the original TensorFlow network gives 2048 numbers. Resizing and the call are clean-fid's
own functions; nothing here downloads anything.

Letters: B batch, H W pixels.
"""

from pathlib import Path

import numpy as np
import torch
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from torch import Tensor, nn


class InceptionFeatures(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] -> (B, 2048). folder: where `inception-2015-12-05.pt` is."""

    anchor: Tensor

    def __init__(self, folder: Path) -> None:
        super().__init__()
        try:
            self.net = InceptionV3W(str(folder), download=False).eval().requires_grad_(False)
        except (RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"metrics.inception={folder}: no TorchScript of Inception ({reason})") from None
        self.resize = build_resizer("clean")
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()  # (B, H, W, 3)
        resized = np.stack([self.resize(picture) for picture in pixels])  # (B, 299, 299, 3)
        return self.net(torch.from_numpy(resized).permute(0, 3, 1, 2).to(self.anchor.device))
