"""Decodes image files to 8 bits, by one rule for training, evaluation and `lathe predict`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Final, Literal

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

ENDINGS: Final = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
"""Endings of photos in folders and shards, in lower case; `lathe predict` has the same list."""

MAX_PIXELS = 2**27
"""Most pixels of a decoded image: one of 3 channels then takes 0.5 GB. Pillow itself refuses more than 1.3 times as many."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a photo upright, by its EXIF orientation."""


class ImageError(ValueError):
    """A file cannot be decoded as an image; the message is the reason, without the name of the file."""


@contextmanager
def open_image(file: Path | bytes) -> Iterator[Image.Image]:
    """Open an image without decoding it. Errors of Pillow, here and in the context, become an `ImageError`.

    Args:
        file: its path or content.

    Raises:
        ImageError: the file is not an image, or is damaged.
    """
    try:
        if isinstance(file, Path) and stat.S_IFMT(mode := os.stat(file).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ImageError(f"it is a {_kind(mode)} and not a file")  # reading a named pipe would wait for ever
        with Image.open(file if isinstance(file, Path) else BytesIO(file)) as image:
            yield image
    except ImageError:
        raise
    except Exception as err:  # the decoders raise errors of many classes
        raise ImageError(_describe(file, err)) from err


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of an image after `decode`; a JPEG is not decoded for this."""
    if image.format not in ("JPEG", "MPO"):
        _load(image)  # others may turn themselves, or name their orientation after the pixels
    width, height = image.size
    return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


def decode(image: Image.Image, mode: Literal["L", "RGB"]) -> Image.Image:
    """Decode an image to 8 bits.

    It is rotated by its EXIF data; transparent parts become white; the first of several frames counts. Of 16 bits the high
    byte counts. Integers of more bits are divided by the power of 256 that their largest needs, and floats from 0 to 1 are
    multiplied by 255.

    Args:
        image: from `open_image`; a JPEG may be in its draft size.
        mode: grey or colour.

    Raises:
        ImageError: it has more pixels than `MAX_PIXELS`.
    """
    image = load_upright(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_8_bits(image)
    if image.has_transparency_data:
        photo = image if image.mode == "RGBA" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    return image if image.mode == mode else image.convert(mode)


def load_upright(image: Image.Image) -> Image.Image:
    """Read the pixels of an image and rotate it by its EXIF data; the mode stays.

    Raises:
        ImageError: as `decode`.
    """
    _load(image)
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def _load(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"it has {image.width * image.height / 1e6:.1f} megapixels, more than {MAX_PIXELS / 1e6:.0f}; make it smaller"
        )
    image.load()


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF data do not make a photo unreadable; viewers show it as it is stored
        return 1


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16 bits, integers and floats to grey; `convert` would make all values from 256 on white."""
    numbers, hidden = np.asarray(image), image.info.get("transparency")
    if image.mode == "F":
        numbers = np.nan_to_num(numbers)
        values = (numbers * 255).round() if numbers.max(initial=0) <= 1 else numbers
    elif image.mode != "I" or image.format == "PPM":
        values = numbers >> 8
    else:
        values = numbers >> max(0, -(-int(numbers.max(initial=0)).bit_length() // 8) * 8 - 8)
    pixels = values.clip(0, 255).astype(np.uint8)
    if isinstance(hidden, int):
        pixels[numbers == hidden] = 255
    return Image.fromarray(pixels)


def _describe(file: Path | bytes, err: Exception) -> str:
    if isinstance(err, UnidentifiedImageError):
        return "the file is empty" if _is_empty(file) else "unknown format"
    return getattr(err, "strerror", None) or " ".join(str(err).split()) or type(err).__name__


def _is_empty(file: Path | bytes) -> bool:
    try:
        return not file if isinstance(file, bytes) else file.stat().st_size == 0
    except OSError:  # it was deleted in the meantime
        return False


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
