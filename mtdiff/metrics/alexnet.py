"""AlexNet features that ship with the package, and LPIPS on them.

The five convolutions are torchvision's `AlexNet_Weights.IMAGENET1K_V1` (BSD-3-Clause), stored as float16;
the linear heads are those the `lpips` package carries. LPIPS: Zhang et al., arXiv 1801.03924.
"""

import contextlib
import io
import warnings
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import lpips
import torch
from safetensors.torch import load
from torch import Tensor, nn
from torchvision.models import alexnet

LAST = {"alex": 10, "vgg": 28}  # place of the last convolution in torchvision's `features`
RETRIEVAL_SIZE = 128  # px: the side to which pictures are resized before their features are compared or counted


@cache
def _weights() -> dict[str, Tensor]:
    data = files("mtdiff").joinpath("assets/alexnet_features.safetensors").read_bytes()
    return {k: v.float() for k, v in load(data).items()}


def alexnet_features() -> nn.Sequential:
    """Frozen convolutions of AlexNet: ImageNet-normalised (B, 3, H, W) -> (B, 256, H', W')."""
    with torch.device("meta"):  # spares drawing random weights for the classifier as well
        features = alexnet(weights=None).features
    features.load_state_dict({k.removeprefix("features."): v.clone() for k, v in _weights().items()}, assign=True)
    return features.eval().requires_grad_(False)


def lpips_alex() -> nn.Module:
    """LPIPS(alex) of the `lpips` package: two pictures (B, 3, H, W) in [-1, 1] -> (B, 1, 1, 1)."""
    return lpips_with("alex", _weights())


def lpips_of(net: Literal["alex", "vgg"], file: Path) -> nn.Module:
    """LPIPS on the convolutions of a file of torchvision's weights (`features.<i>.weight`, and whatever else)."""
    try:
        return lpips_with(net, torch.load(file, map_location="cpu", weights_only=True))
    except (UnpicklingError, RuntimeError, KeyError, TypeError, AttributeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"metrics.lpips_weights={file}: no torchvision weights of {net} ({reason})") from None


def lpips_with(net: Literal["alex", "vgg"], weights: Mapping[str, Tensor]) -> nn.Module:
    """KeyError where a convolution is missing, said before anything is built: VGG takes seconds."""
    _ = weights[f"features.{LAST[net]}.weight"]
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the package prints, and names weights the way torchvision once did
        model = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    for name, module in model.net.named_modules():
        if isinstance(module, nn.Conv2d):  # named slice<k>.<i>, where i is the place in torchvision's `features`
            place = f"features.{name.rpartition('.')[2]}"
            module.load_state_dict({k: weights[f"{place}.{k}"].float() for k in ("weight", "bias")})
    return model.eval().requires_grad_(False)


class AlexNetEmbedding(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1], any size -> last convolution's features at 128 px.

    pool=True: averaged over positions, (B, 256), for Fréchet and kernel distances.
    pool=False: flattened, (B, 2304), for nearest-neighbour retrieval.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, pool: bool = True) -> None:
        super().__init__()
        self.pool = pool
        self.features = alexnet_features()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        side = (RETRIEVAL_SIZE, RETRIEVAL_SIZE)
        x = nn.functional.interpolate(images, side, mode="bicubic", antialias=True, align_corners=False)
        x = ((x.clamp(-1, 1) + 1) / 2 - self.mean) / self.std
        x = self.features(x)  # (B, 256, 3, 3)
        return x.mean((2, 3)) if self.pool else x.flatten(1)
