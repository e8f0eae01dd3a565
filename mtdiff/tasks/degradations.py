"""How a picture turns into the low-resolution source of super-resolution.

`RealESRGAN` is the second-order degradation of Wang et al. 2021 (arXiv 2107.10833) with the
published x4plus parameters as defaults, `Bicubic` the clean one; both are pure functions of
(image, generator state).

Letters: H W picture, k odd kernel side, radius (k - 1) / 2. Pictures are (H, W, 3) float32 RGB in
[0, 1], and every step maps that range into itself. Lengths are pixels, angles radians.

Where we deviate: kernels shrink with small pictures (`RealESRGAN.length_factor`); the photon count
of Poisson noise is fixed, not read off the levels present; JPEG qualities are whole numbers.
OpenCV may split large pictures over threads: importing this changes no global setting, so a data
worker that wants one core calls `cv2.setNumThreads(0)` itself.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import pi
from typing import final

import numpy as np
from PIL import Image

from mtdiff.tasks.corruptions import (
    RESIZE_MODES,
    Picture,
    blur,
    clip,
    gaussian_noise,
    jpeg,
    poisson_noise,
    quantise,
    resize,
)
from mtdiff.tasks.kernels import Kernel, Pair, gaussian_kernel, plateau_kernel, sinc_kernel, squared_distance
from mtdiff.tasks.requirements import (
    require,
    require_limits,
    require_number,
    require_odds,
    require_picture,
    require_whole,
)


def pick(odds: Sequence[float], rng: np.random.Generator) -> int:
    """An index drawn with the given odds (several times faster than `rng.choice`)."""
    edges = list(accumulate(odds))
    return bisect_right(edges, rng.random() * edges[-1], hi=len(edges) - 1)


def draw_shape(limits: Pair, rng: np.random.Generator) -> float:
    """A beta, below and above 1 with equal odds; a side that `limits` leave out gives its edge.

    So half of the published plateau kernels (limits 1 and 2) have a beta of exactly 1.
    """
    pivot = min(max(1.0, limits[0]), limits[1])
    return rng.uniform(limits[0], pivot) if rng.random() < 0.5 else rng.uniform(pivot, limits[1])


def draw_side(limits: tuple[int, int], rng: np.random.Generator) -> int:
    """An odd kernel side between two odd limits, both included."""
    return int(2 * rng.integers(limits[0] // 2, limits[1] // 2 + 1) + 1)


def draw_factor(odds: Sequence[float], limits: Pair, rng: np.random.Generator) -> float:
    """A resize factor; `odds` are those of enlarging, shrinking and keeping."""
    way = pick(odds, rng)
    return (rng.uniform(1.0, limits[1]), rng.uniform(limits[0], 1.0), 1.0)[way]


def draw_mode(rng: np.random.Generator) -> int:
    """One of RESIZE_MODES, all equally likely."""
    return RESIZE_MODES[int(rng.integers(len(RESIZE_MODES)))]


@final
@dataclass(frozen=True)
class Stage:
    """One classical degradation: blur, resize, noise, JPEG (Eq. 1); defaults of the first one."""

    blur_prob: float = 1.0
    kernel_sides: tuple[int, int] = (7, 21)  # odd, at the reference size
    # Gaussian, generalised Gaussian, plateau: of each the isotropic, then the anisotropic one
    kernel_odds: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    blur_sigma: Pair = (0.2, 3.0)  # at the reference size
    generalised_shape: Pair = (0.5, 4.0)
    plateau_shape: Pair = (1.0, 2.0)
    sinc_prob: float = 0.1  # instead of all of the above
    sinc_lowest: Pair = (pi / 3, pi / 5)  # least cut-off of kernels under 13 px, and of others
    resize_odds: tuple[float, ...] = (0.2, 0.7, 0.1)  # enlarge, shrink, keep
    resize_range: Pair = (0.15, 1.5)
    gaussian_prob: float = 0.5  # otherwise Poisson noise
    noise_sigma: Pair = (1.0, 30.0)  # 8-bit levels
    poisson_scale: Pair = (0.05, 3.0)
    grey_prob: float = 0.4
    jpeg_quality: tuple[int, int] = (30, 95)

    def __post_init__(self) -> None:
        for name in ("blur_prob", "sinc_prob", "gaussian_prob", "grey_prob"):
            require_number(name, getattr(self, name), 0, 1)
        for name in ("blur_sigma", "generalised_shape", "plateau_shape", "resize_range"):
            require_limits(name, getattr(self, name), 1e-3, 1e3)
        for name in ("noise_sigma", "poisson_scale"):
            require_limits(name, getattr(self, name), 0, 255)
        require_limits("jpeg_quality", self.jpeg_quality, 1, 100)
        require_limits("sinc_lowest", sorted(self.sinc_lowest), 1e-3, pi)
        require_limits("kernel_sides", self.kernel_sides, 3, 255)
        odd = all(side % 2 == 1 for side in self.kernel_sides)
        require(odd, "kernel_sides", self.kernel_sides, "odd numbers")
        require_odds("kernel_odds", self.kernel_odds, 6)
        require_odds("resize_odds", self.resize_odds, 3)
        low, high = self.resize_range
        require(low <= 1 <= high, "resize_range", (low, high), "one number up to 1, one from 1")

    def draw_kernel(self, length_factor: float, rng: np.random.Generator) -> Kernel:
        """A (k, k) blur kernel with its lengths multiplied by `length_factor`, k at least 3."""
        side = draw_side(self.kernel_sides, rng)
        radius = max(1, round(side // 2 * length_factor))
        if rng.random() < self.sinc_prob:
            return sinc_kernel(radius, rng.uniform(self.sinc_lowest[side >= 13], pi))
        family, anisotropic = divmod(pick(self.kernel_odds, rng), 2)
        along, across = rng.uniform(*self.blur_sigma, size=2) * length_factor
        angle = rng.uniform(-pi, pi)  # no effect on the isotropic ones
        distance = squared_distance(radius, (along, across if anisotropic else along), angle)
        if family == 0:
            return gaussian_kernel(distance)
        if family == 1:
            return gaussian_kernel(distance, draw_shape(self.generalised_shape, rng))
        return plateau_kernel(distance, draw_shape(self.plateau_shape, rng))

    def blur(self, image: Picture, length_factor: float, rng: np.random.Generator) -> Picture:
        """Blurred with probability `blur_prob`."""
        if rng.random() >= self.blur_prob:
            return image
        return blur(image, self.draw_kernel(length_factor, rng))

    def resize(self, image: Picture, base: tuple[int, int], min_side: int, rng: np.random.Generator) -> Picture:
        """To a random multiple of `base` (height, width), no side under `min_side`."""
        factor = draw_factor(self.resize_odds, self.resize_range, rng)
        height, width = (max(min_side, round(side * factor)) for side in base)
        return resize(image, (height, width), draw_mode(rng))

    def noise(self, image: Picture, rng: np.random.Generator) -> Picture:
        """Gaussian or Poisson noise, coloured or grey."""
        grey = rng.random() < self.grey_prob
        if rng.random() < self.gaussian_prob:
            return gaussian_noise(image, rng.uniform(*self.noise_sigma), grey, rng)
        return poisson_noise(image, rng.uniform(*self.poisson_scale), grey, rng)

    def jpeg(self, image: Picture, rng: np.random.Generator) -> Picture:
        """JPEG of a random quality."""
        return jpeg(image, int(rng.integers(*self.jpeg_quality, endpoint=True)))


PUBLISHED_SECOND = Stage(
    blur_prob=0.8,
    blur_sigma=(0.2, 1.5),
    resize_odds=(0.3, 0.4, 0.3),
    resize_range=(0.3, 1.2),
    noise_sigma=(1.0, 25.0),
    poisson_scale=(0.05, 2.5),
)


@final
@dataclass(frozen=True)
class RealESRGAN:
    """Second-order degradation (Sec. 3.2): (H, W, 3) -> (H / scale, W / scale, 3), 8-bit levels."""

    scale: int = 4
    reference_size: int | None = 256  # picture side that kernel lengths were written for
    first: Stage = Stage()
    second: Stage = PUBLISHED_SECOND
    final_sinc_prob: float = 0.8
    final_sinc_lowest: float = pi / 3  # radians per pixel
    jpeg_last_prob: float = 0.5  # otherwise the last resize and sinc filter follow the JPEG
    min_side: int = 4  # of every picture in between

    def __post_init__(self) -> None:
        require_whole("scale", self.scale)
        require_whole("min_side", self.min_side)
        if self.reference_size is not None:
            require_whole("reference_size", self.reference_size)
        require_number("final_sinc_prob", self.final_sinc_prob, 0, 1)
        require_number("jpeg_last_prob", self.jpeg_last_prob, 0, 1)
        require_number("final_sinc_lowest", self.final_sinc_lowest, 1e-3, pi)

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        """Degrade one picture; everything random comes from `rng`."""
        require_picture(image, self.scale)
        height, width, _ = image.shape
        target = (height // self.scale, width // self.scale)
        lengths = self.length_factor(height, width)
        image = self.first.blur(image, lengths, rng)
        image = self.first.resize(image, (height, width), self.min_side, rng)
        image = self.first.noise(image, rng)
        image = self.first.jpeg(image, rng)
        image = self.second.blur(image, lengths, rng)
        # factors of the second stage refer to the final size
        image = self.second.resize(image, target, self.min_side, rng)
        image = self.second.noise(image, rng)
        return quantise(self._finish(image, target, lengths, rng))

    def length_factor(self, height: int, width: int) -> float:
        """What radii and blur sigmas are multiplied by: shorter side / reference size, at most 1.

        It is 1 for `reference_size=None`. Sinc cut-offs, which are set by the pixel grid, resize
        factors, noise and JPEG stay as published.
        """
        if self.reference_size is None:
            return 1.0
        return min(1.0, min(height, width) / self.reference_size)

    def _finish(self, image: Picture, target: tuple[int, int], lengths: float, rng: np.random.Generator) -> Picture:
        # the last resize and sinc filter, with the second JPEG before or after (Sec. 3.3)
        jpeg_last = rng.random() < self.jpeg_last_prob
        if not jpeg_last:
            image = self.second.jpeg(image, rng)
        image = resize(image, target, draw_mode(rng))
        if rng.random() < self.final_sinc_prob:
            radius = max(1, round(draw_side(self.second.kernel_sides, rng) // 2 * lengths))
            image = blur(image, sinc_kernel(radius, rng.uniform(self.final_sinc_lowest, pi)))
        return self.second.jpeg(image, rng) if jpeg_last else image


@final
@dataclass(frozen=True)
class Bicubic:
    """Clean degradation: antialiased bicubic shrinking (a = -0.5), rounded to 8-bit levels."""

    scale: int = 4

    def __post_init__(self) -> None:
        require_whole("scale", self.scale)

    def __call__(self, image: Picture, rng: np.random.Generator) -> Picture:
        """(H, W, 3) -> (H / scale, W / scale, 3); `rng` is not used."""
        require_picture(image, self.scale)
        size = (image.shape[1] // self.scale, image.shape[0] // self.scale)
        channels = (Image.fromarray(image[..., c]) for c in range(3))
        shrunk = [np.asarray(c.resize(size, Image.Resampling.BICUBIC)) for c in channels]
        return quantise(clip(np.stack(shrunk, axis=-1)))
