"""Holes for inpainting: boxes and free-form brush strokes that hide 10 to 50 % of a picture.

Letters: H W picture. Masks are (H, W) uint8, 1 in the hole; lengths are pixels, angles radians.

Strokes are the zigzags of Yu et al. 2019 (arXiv 1806.03589), with the constants of its authors' code, which are for
256 px, scaled to the picture. Where we deviate: zigzags run in any direction, and are added until a coverage that was
drawn first is reached (theirs: one to three of them, whatever they cover).
"""

from itertools import pairwise
from math import ceil, cos, floor, hypot, pi, sin, sqrt

import cv2
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.uint8]

COVERAGE = (0.1, 0.5)
"""Least and greatest share of the picture that a hole takes."""
WIDTH = (12 / 256, 40 / 256)
"""Brush widths, as shares of the shorter side."""
SEGMENTS = (4, 11)
ANGLE = (2 * pi / 5 - 2 * pi / 15, 2 * pi / 5 + 2 * pi / 15)
"""Between a segment and the direction of its zigzag."""


def random_hole(height: int, width: int, rng: np.random.Generator) -> Mask:
    """A box or brush strokes, equally likely."""
    draw = box if rng.random() < 0.5 else strokes
    return draw(height, width, rng)


def box(height: int, width: int, rng: np.random.Generator) -> Mask:
    """A rectangle inside the picture; height / width, as shares of the picture's, from 1/2 to 2."""
    low, high = (share * height * width for share in COVERAGE)
    area, ratio = rng.uniform(low, high), 2 ** rng.uniform(-1, 1)
    rows = min(max(round(sqrt(area * ratio * height / width)), 1), height)
    columns = min(max(round(area / rows), ceil(low / rows)), floor(high / rows))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    mask = np.zeros((height, width), np.uint8)
    mask[top : top + rows, left : left + columns] = 1
    return mask


def strokes(height: int, width: int, rng: np.random.Generator) -> Mask:
    """Brush strokes. A segment that would cover too much ends them (one alone takes far less than 50 - 10 %)."""
    mask: Mask = np.zeros((height, width), np.uint8)
    least, most = (share * height * width for share in (rng.uniform(*COVERAGE), COVERAGE[1]))
    while True:
        thickness = max(1, round(rng.uniform(*WIDTH) * min(height, width)))
        for start, end in pairwise(zigzag(height, width, rng)):
            longer = mask.copy()
            cv2.line(longer, start, end, 1, thickness)
            covered = cv2.countNonZero(longer)
            if covered > most:
                return mask
            mask = longer
            if covered >= least:
                return mask


def zigzag(height: int, width: int, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Corners (x, y), inside the picture, of one stroke."""
    reach, heading = hypot(height, width) / 8, rng.uniform(-pi, pi)
    x, y = rng.uniform(0, width - 1), rng.uniform(0, height - 1)
    corners = [(round(x), round(y))]
    for i in range(int(rng.integers(*SEGMENTS, endpoint=True))):
        angle = heading + (1 if i % 2 else -1) * rng.uniform(*ANGLE)
        length = min(max(rng.normal(reach, reach / 2), 0), 2 * reach)
        x = min(max(x + length * cos(angle), 0), width - 1)
        y = min(max(y + length * sin(angle), 0), height - 1)
        corners.append((round(x), round(y)))
    return corners
