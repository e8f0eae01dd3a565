"""Picture quality that needs no network, and the check that pictures are pictures.

All pictures are (B, 3, H, W) in [-1, 1]. PSNR and SSIM see them in [0, 1] after clipping, in float64.

psnr        dB, data range 1; identical pictures give 100
ciede2000   mean colour difference (CIE 142-2001) over the pixels, of colours in sRGB; 0 is equal, 1 just noticeable
ssim        Wang et al. 2004: Gaussian window of 11 px, sigma 1.5, population covariance (see `ssim`)
"""

import warnings
from typing import Literal

import torch
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor, nn

from mtdiff.types import to_double

RangeMistake = Literal["raise", "warn", "ignore"]
TOLERANCE = 1e-3  # how far outside [-1, 1] rounding may carry a picture
MAX_PSNR = 100.0


class RangeWarning(UserWarning):
    """Pictures that should lie in [-1, 1] look as if they were in [0, 1]."""


def check_pictures(images: Tensor, name: str, range_mistake: RangeMistake = "warn") -> Tensor:
    """`images` themselves, if they can be pictures in [-1, 1]; else a ValueError.

    Pictures that never go below 0 are possible, yet almost always [0, 1] by mistake: what then follows is an option.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point() or not len(images):
        raise ValueError(f"{name}: expected float pictures (B, 3, H, W), got {tuple(images.shape)} {images.dtype}")
    low, high = images.min().item(), images.max().item()
    if not (low >= -1 - TOLERANCE and high <= 1 + TOLERANCE):  # NaN fails too
        raise ValueError(f"{name}: expected pictures in [-1, 1], got [{low:.4g}, {high:.4g}]")
    if low >= 0 and high > low and range_mistake != "ignore":
        message = f"{name}: none of {len(images)} pictures goes below 0; expected [-1, 1], is this [0, 1]?"
        if range_mistake == "raise":
            raise ValueError(message)
        warnings.warn(message, RangeWarning, stacklevel=2)
    return images


def _unit(images: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1] in float64, clipped."""
    return (to_double(images).clamp(-1, 1) + 1) / 2


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> dB, (B,)."""
    mse = (_unit(a) - _unit(b)).pow(2).mean((1, 2, 3))
    return -10 * mse.clamp_min(10 ** (-MAX_PSNR / 10)).log10()


def ciede2000(a: Tensor, b: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> (B,) on the CPU, by scikit-image."""
    first, second = (rgb2lab(_unit(x).cpu().permute(0, 2, 3, 1).numpy()) for x in (a, b))
    return torch.from_numpy(deltaE_ciede2000(first, second).mean((1, 2)))


def _blur(x: Tensor, sigma: float = 1.5, radius: int = 5) -> Tensor:
    """Gaussian window without padding: (B, C, H, W) -> (B, C, H - 10, W - 10)."""
    position = torch.arange(-radius, radius + 1, dtype=x.dtype, device=x.device)
    window = torch.softmax(-position.pow(2) / (2 * sigma**2), 0)  # (11,), adds up to 1
    channels = x.shape[1]
    down = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    across = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    return nn.functional.conv2d(nn.functional.conv2d(x, down, groups=channels), across, groups=channels)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1], at least 11 px a side -> (B,), mean over colours.

    Equals scikit-image's `structural_similarity(gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    data_range=1, channel_axis=...)`. torchmetrics 1.9 differs: 0.3561 against 0.3580 on scikit-image's own check.
    """
    if min(a.shape[-2:]) < 11:
        raise ValueError(f"ssim: expected at least 11 px a side, got {tuple(a.shape[-2:])}")
    x, y = _unit(a), _unit(b)
    mean_x, mean_y = _blur(x), _blur(y)
    var_x, var_y = _blur(x * x) - mean_x**2, _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (numerator / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean((1, 2, 3))
