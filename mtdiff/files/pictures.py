"""Pictures that someone else made: read within bounds, upright, of 8 bits; and masks, by one rule. No torch here.

The rule for masks, wherever one is given: it is turned upright, and white (from 0.5 on, as diffusers' pipelines cut it)
is the hole. Transparent parts lie on black, so white strokes on a layer are the hole; where everything that can be seen
is black they lie on white, so a hole that was erased from a black layer is the hole. A mask without a hole, or with
nothing beside it, is refused.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import IO, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, ImageOps
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from mtdiff.errors import reason, shown

FORMATS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
        "PNG": (".png", ".apng"),
        "WEBP": (".webp",),
        "AVIF": (".avif", ".avifs"),
        "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
        "TIFF": (".tif", ".tiff"),
        "GIF": (".gif",),
        "BMP": (".bmp",),
        "DIB": (".dib",),
        "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
        "QOI": (".qoi",),
        "PCX": (".pcx",),
        "SGI": (".sgi", ".bw", ".rgb", ".rgba"),
        "SUN": (".ras",),
        "TGA": (".tga", ".icb", ".vda", ".vst"),
    }
)
"""Decoders that are tried, whatever a file's ending, and their endings. Of Pillow's others some start programs (EPS),
some hold no pixels (HDF5, GRIB), and some are for icons, fonts and films."""
ENDINGS = frozenset(ending for endings in FORMATS.values() for ending in endings)
MAX_PIXELS = 50_000_000
SAMPLE_PIXELS = 64_000_000
"""The most pixels of a picture given to a trained model."""
BROKEN = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    OverflowError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on damaged files."""


class Unreadable(ValueError):
    """One row of a data set that cannot be used; the others can."""


# Data sets


def open_picture(data: bytes | BinaryIO, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """A picture whose header was read and nothing else; Unreadable where there is none or it is too large."""
    try:
        image = Image.open(BytesIO(data) if isinstance(data, bytes) else data, formats=tuple(FORMATS))
    except BROKEN as error:
        raise Unreadable(f"not a picture ({_line(error)})") from None
    if image.width * image.height > max_pixels:
        raise Unreadable(f"{image.width} x {image.height} pixels, more than max_pixels={max_pixels}")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Decoded, upright (EXIF), transparent parts on white."""
    try:
        return lay_on_white(turn_upright(image))
    except BROKEN as error:
        raise Unreadable(f"damaged picture ({_line(error)})") from None


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once it is turned upright (EXIF), without decoding pixels."""
    try:
        turned = read_orientation(image) in (5, 6, 7, 8)
    except BROKEN as error:
        raise Unreadable(f"damaged picture ({_line(error)})") from None
    if isinstance(image, TiffImageFile):  # newer versions of Pillow turn the size of a TIFF, and of it alone
        width, height = image.tag_v2[IMAGEWIDTH], image.tag_v2[IMAGELENGTH]
    else:
        width, height = image.size
    return (height, width) if turned else (width, height)


def picture_ending(data: bytes) -> str:
    """The ending, without its dot, under which every reader knows a picture file, from its first bytes."""
    kind = str(open_picture(data, max_pixels=2**62).format)
    return FORMATS["JPEG" if kind == "MPO" else kind][0][1:]  # a JPEG of several pictures, of which the first counts


# Orientation and depth


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none. Pixels are not decoded."""
    if image.format != "PNG":
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    exif = Image.Image.getexif(image)  # PNG's own decodes the pixels, since the chunk may follow them
    found = exif.get(ExifTags.Base.Orientation)
    if found is None and "exif" not in image.info:
        late = Image.Exif()
        late.load(_late_exif(image))
        found = late.get(ExifTags.Base.Orientation)
    return 1 if found is None else int(found)


def _late_exif(image: Image.Image) -> bytes:
    """The eXIf chunk behind a PNG's pixels; empty where there is none."""
    file = image.fp if isinstance(image, ImageFile.ImageFile) else None
    if file is None or not file.seekable():
        return b""
    place = file.tell()
    try:
        file.seek(8)
        return next((file.read(length) for kind, length in _chunks(file) if kind == b"eXIf"), b"")
    finally:
        file.seek(place)


def _chunks(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Kind and length of every chunk of a PNG; the file stands at its content then."""
    while len(head := file.read(8)) == 8:
        length, start = int.from_bytes(head[:4], "big"), file.tell()
        yield head[4:], length
        file.seek(start + length + 4)  # a checksum ends it


def turn_upright(image: Image.Image) -> Image.Image:
    """Decoded, upright (EXIF), of 8 bits a channel."""
    image.load()
    return reduce_to_eight_bits(ImageOps.exif_transpose(image))


def reduce_to_eight_bits(image: Image.Image) -> Image.Image:
    """Pictures of 16 bits a pixel with their range kept, which Pillow would cut off at 255; others as they are."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range")
    if not image.mode.startswith("I"):
        return image
    pixels = np.asarray(image)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError("more than 16 bits a pixel")
    return Image.fromarray((pixels // 257).astype(np.uint8))


def lay_on_white(image: Image.Image) -> Image.Image:
    """RGB, transparent parts on white."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


# Pictures given to a trained model


def load_picture(key: str, path: str | Path) -> Image.Image:
    """A picture file as `read_pixels` gives it. Its size is read off the header, before anything is decoded."""
    key = f"{key}={shown(path)}"
    if not Path(path).is_file():
        raise ValueError(f"{key}: no such file")
    try:
        opened = Image.open(path, formats=tuple(FORMATS))
    except Image.UnidentifiedImageError:
        raise ValueError(f"{key}: no picture, expected one of {', '.join(FORMATS)}") from None
    except Exception as error:  # a decoder raises whatever its own reading of broken bytes runs into
        raise ValueError(f"{key}: no readable picture ({reason(error)})") from None
    with opened:
        return read_pixels(key, opened)


def read_pixels(key: str, picture: Image.Image) -> Image.Image:
    """Upright, as RGBA. ValueError where the picture is too large, broken, moving, or has no known range."""
    width, height = picture.size
    if width * height > SAMPLE_PIXELS or min(width, height) < 1:
        raise ValueError(f"{key}: {width} x {height} pixels, expected at least 1 and at most {SAMPLE_PIXELS} in all")
    if picture.mode == "F":
        raise ValueError(f"{key}: pixels of mode F, expected 8 bits a channel, or 16 of a grey picture")
    try:
        several = getattr(picture, "n_frames", 1)  # an attribute of those formats alone that can hold several
        decoded = turn_upright(picture).convert("RGBA")
    except Exception as error:  # as above
        raise ValueError(f"{key}: no readable picture ({reason(error)})") from None
    if several > 1 and picture.format != "MPO":  # a photo with its own thumbnails
        raise ValueError(f"{key}: {several} pictures in one file, expected a single one")
    return decoded


# Masks


def read_mask(picture: Image.Image) -> NDArray[np.float32]:
    """(H, W) in [0, 1] by the rule for masks, its edges still soft: they are cut once it has the model's size."""
    layer = np.asarray(read_pixels("mask", picture).convert("LA"), np.float32) / 255
    grey, alpha = layer[..., 0], layer[..., 1]
    seen = grey[alpha >= 0.5]
    ground = float(seen.size > 0 and seen.max() < 0.5)
    return np.asarray(grey * alpha + ground * (1 - alpha), np.float32)


def check_hole(share: float) -> None:
    """Refuse a mask by the share of it that is hole."""
    if not 0 < share < 1:
        lacks = "marks nothing" if share == 0 else "marks the whole picture"
        raise ValueError(f"mask: {lacks}, expected white where the picture shall be drawn anew, and black elsewhere")


def count_endings(names: Iterable[str]) -> str:
    """What files are, by their endings, the most frequent first: `24 .avif, 1 without ending`."""
    counts: dict[str, int] = {}
    for name in names:
        ending = Path(name).suffix.lower() or "without ending"
        counts[ending] = counts.get(ending, 0) + 1
    return ", ".join(f"{n} {shown(e)}" for e, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__
