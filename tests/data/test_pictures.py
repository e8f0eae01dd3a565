"""Pictures of others: every format under its endings, every orientation, depths, masks drawn in different ways."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from little_sets import encoded
from PIL import ExifTags, Image, ImageDraw, features

from mtdiff.files.pictures import (
    ENDINGS,
    FORMATS,
    Unreadable,
    check_hole,
    load_picture,
    open_picture,
    picture_ending,
    read_mask,
    to_rgb,
    upright_size,
)

WRITTEN = [f for f in FORMATS if f not in ("SUN", "AVIF")] + ["AVIF"] * features.check("avif")  # Pillow reads SUN alone
ORIENTED = ["JPEG", "PNG", "WEBP", "TIFF", "MPO"] + ["AVIF"] * features.check("avif")


def halves(width: int = 48, height: int = 32) -> Image.Image:
    """Its upper left quarter is red, the rest grey: each orientation of it differs."""
    image = Image.new("RGB", (width, height), (120, 120, 120))
    image.paste((230, 20, 20), (0, 0, width // 2, height // 2))
    return image


@pytest.mark.parametrize("kind", WRITTEN)
def test_formats_are_read_under_every_ending(kind: str, tmp_path: Path) -> None:
    data = encoded(halves(), kind)
    assert to_rgb(open_picture(data)).size == (48, 32)
    assert f".{picture_ending(data)}" in FORMATS[kind]
    for ending in ENDINGS:  # the content decides, not the name
        (tmp_path / f"picture{ending}").write_bytes(data)
        assert load_picture("image", tmp_path / f"picture{ending}").size == (48, 32)


def test_a_jpeg_of_several_pictures_is_its_first(tmp_path: Path) -> None:
    file = BytesIO()
    halves().save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    assert open_picture(file.getvalue()).format == "MPO"
    assert to_rgb(open_picture(file.getvalue())).size == (48, 32)
    assert picture_ending(file.getvalue()) == "jpg"


def late_exif(orientation: int) -> bytes:
    """A PNG whose eXIf chunk follows its pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    halves().save(early := BytesIO(), "PNG", exif=exif)
    data = early.getvalue()
    at = data.index(b"eXIf") - 4
    length = int.from_bytes(data[at : at + 4], "big") + 12
    end = data.index(b"IEND") - 4
    return data[:at] + data[at + length : end] + data[at : at + length] + data[end:]


def with_exif(kind: str) -> Callable[[int], bytes]:
    def save(orientation: int) -> bytes:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        halves().save(file := BytesIO(), kind, exif=exif)
        return file.getvalue()

    return save


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "save"), [*((k, with_exif(k)) for k in ORIENTED), ("late", late_exif)])
def test_every_orientation_is_upright_by_size_and_by_pixels(kind: str, save: Any, orientation: int) -> None:
    data = save(orientation)
    shown = to_rgb(open_picture(data))
    assert upright_size(open_picture(data)) == shown.size == ((48, 32) if orientation < 5 else (32, 48))
    corners = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
    x, y = (4 if low == 0 else side - 5 for low, side in zip(corners[orientation], shown.size, strict=True))
    red, green, _ = shown.getpixel((x, y))  # type: ignore[misc]
    assert red > 180 > 80 > green


def test_sixteen_bits_are_taken_by_a_model_as_in_data_sets(tmp_path: Path) -> None:
    deep = Image.fromarray(np.array([[0, 32896, 65535]], np.uint16))
    deep.save(tmp_path / "deep.png")
    given = load_picture("image", tmp_path / "deep.png").convert("RGB")
    assert np.array_equal(np.asarray(given), np.asarray(to_rgb(open_picture(encoded(deep)))))


def square(mode: str, ground: Any, hole: Any) -> Image.Image:
    image = Image.new(mode, (96, 96), ground)
    image.paste(hole, (20, 20, 60, 60))
    return image


def turned(mask: Image.Image) -> Image.Image:
    """Stored on its side, with the orientation that shows it upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    mask.transpose(Image.Transpose.ROTATE_90).save(file := BytesIO(), "PNG", exif=exif)
    return Image.open(file)


def through_jpeg(mask: Image.Image) -> Image.Image:
    mask.save(file := BytesIO(), "JPEG", quality=75)
    return Image.open(file)


def paletted() -> Image.Image:
    mask = square("P", 0, 1)
    mask.putpalette([255, 255, 255, 255, 255, 255])
    mask.info["transparency"] = 0
    mask.save(file := BytesIO(), "PNG", transparency=0)
    return Image.open(file)


MASKS: dict[str, Callable[[], Image.Image]] = {
    "grey": lambda: square("L", 0, 255),
    "bits": lambda: square("1", 0, 1),
    "colour": lambda: square("RGB", (0, 0, 0), (255, 255, 255)),
    "deep": lambda: square("I;16", 0, 65535),
    "white strokes on a layer": lambda: square("RGBA", (255, 255, 255, 0), (255, 255, 255, 255)),
    "erased from a black layer": lambda: square("RGBA", (0, 0, 0, 255), (0, 0, 0, 0)),
    "erased, its hidden colour white": lambda: square("RGBA", (0, 0, 0, 255), (255, 255, 255, 0)),
    "opaque": lambda: square("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)),
    "palette": paletted,
    "JPEG": lambda: through_jpeg(square("L", 0, 255)),
    "turned": lambda: turned(square("L", 0, 255)),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_one_hole_agree(name: str) -> None:
    assert np.array_equal(read_mask(MASKS[name]()) >= 0.5, np.asarray(square("L", 0, 255)) > 0)


def test_soft_masks_are_cut_at_a_half() -> None:
    large = Image.new("L", (960, 960))
    ImageDraw.Draw(large).ellipse((200, 200, 600, 600), 255)
    soft = large.resize((96, 96))
    assert np.array_equal(read_mask(soft) >= 0.5, np.asarray(soft) >= 127.5)


@pytest.mark.parametrize(("share", "said"), [(0.0, "marks nothing"), (1.0, "the whole picture")])
def test_empty_and_full_masks_are_named(share: float, said: str) -> None:
    with pytest.raises(ValueError, match=f"^mask: .*{said}"):
        check_hole(share)
    check_hole(0.5)


def test_decoders_that_start_programs_are_not_tried() -> None:
    with pytest.raises(Unreadable, match="not a picture"):
        open_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
