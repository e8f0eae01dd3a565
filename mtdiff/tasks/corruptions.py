"""The steps of a degradation: picture -> picture.

Pictures are (H, W, 3) float32 RGB in [0, 1], and every step maps that range into itself. Equations and sections of
Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833).
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mtdiff.tasks.kernels import Kernel

Picture = NDArray[np.float32]
RESIZE_MODES = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
LUMA = np.array([[0.299], [0.587], [0.114]], np.float32)  # ITU-R BT.601


def clip(image: NDArray[Any]) -> Picture:
    """Clip to [0, 1], as float32."""
    return np.asarray(np.clip(image, 0.0, 1.0), np.float32)


def quantise(image: Picture) -> Picture:
    """Round to the 256 levels of a stored picture."""
    return np.asarray(np.rint(image * 255) / 255, np.float32)


def blur(image: Picture, kernel: Kernel) -> Picture:
    """Convolve with a point-symmetric (k, k) kernel, borders mirrored (Eq. 1)."""
    return clip(cv2.filter2D(image, -1, kernel))


def resize(image: Picture, size: tuple[int, int], mode: int) -> Picture:
    """To `size` (height, width); of RESIZE_MODES only the first is antialiased (Sec. 3.1)."""
    return clip(cv2.resize(image, size[::-1], interpolation=mode))


def gaussian_noise(image: Picture, sigma: float, grey: bool, rng: np.random.Generator) -> Picture:
    """Add white noise of `sigma` 8-bit levels, the same for all channels if `grey` (Sec. 3.1)."""
    shape = (*image.shape[:2], 1 if grey else 3)
    return clip(image + np.float32(sigma / 255) * rng.standard_normal(shape, np.float32))


def poisson_noise(
    image: Picture, scale: float, grey: bool, rng: np.random.Generator, photons: float = 256.0
) -> Picture:
    """Add shot noise of deviation scale * sqrt(value / photons), that of the luma if `grey`.

    `photons` is the mean count at value 1: 256 for a picture that shows all 8-bit levels.
    """
    light = image @ LUMA if grey else image  # (H, W, 1) or (H, W, 3)
    noise = rng.poisson(light * photons) / photons - light
    return clip(image + scale * noise)


def jpeg(image: Picture, quality: int) -> Picture:
    """Through baseline JPEG with 4:2:0 chroma; quality 1 to 100 (Sec. 3.1)."""
    bgr = np.rint(image[..., ::-1] * 255).astype(np.uint8)
    _, coded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    return np.asarray(decoded[..., ::-1], np.float32) / np.float32(255)
