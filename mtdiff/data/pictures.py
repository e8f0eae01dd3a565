"""From the bytes of a picture file to a training picture; what cannot be read says so before it costs memory."""

import struct
import zlib
from io import BytesIO
from typing import BinaryIO

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""Only these decoders are tried: some others of Pillow start programs."""
MAX_PIXELS = 50_000_000
BROKEN = (OSError, ValueError, SyntaxError, EOFError, OverflowError, struct.error, zlib.error)
"""What Pillow's decoders raise on damaged files."""


class Unreadable(ValueError):
    """One row of a data set that cannot be used; the others can."""


def opened(data: bytes | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture whose header was read and nothing else; Unreadable where there is none or it is too large."""
    try:
        image = Image.open(BytesIO(data) if isinstance(data, bytes) else data, formats=FORMATS)
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise Unreadable(f"not a picture ({_line(error)})") from None
    if image.width * image.height > max_pixels:
        raise Unreadable(f"{image.width} x {image.height} pixels, more than max_pixels={max_pixels}")
    return image


def rgb(image: Image.Image) -> Image.Image:
    """Decoded, upright (EXIF), transparent parts on white."""
    try:
        image.load()
        image = eight_bits(ImageOps.exif_transpose(image))
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")
    except (*BROKEN, Image.DecompressionBombError) as error:
        raise Unreadable(f"damaged picture ({_line(error)})") from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once it is turned upright (EXIF), from the header alone."""
    try:
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()  # PNG's own decodes the pixels
        turned = exif.get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except BROKEN as error:
        raise Unreadable(f"damaged picture ({_line(error)})") from None
    return (image.height, image.width) if turned else image.size


def eight_bits(image: Image.Image) -> Image.Image:
    """Pictures of 16 bits a pixel with their range kept, which Pillow would cut off at 255; others as they are."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("more than 16 bits a pixel")
    return Image.fromarray((pixels // 257).astype(np.uint8))


def fitted(image: Image.Image, height: int, width: int) -> Tensor:
    """(3, height, width) uint8: the largest centred part of that shape, resized (bicubic, antialiased)."""
    scale = min(image.width / width, image.height / height)  # pixels of the picture to one of the result
    cut_width, cut_height = min(image.width, round(width * scale)), min(image.height, round(height * scale))
    left, top = (image.width - cut_width) // 2, (image.height - cut_height) // 2
    cut = image.crop((left, top, left + cut_width, top + cut_height))  # nothing beside it bleeds in
    resized = cut.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(resized).transpose(2, 0, 1).copy())


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
