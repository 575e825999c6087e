"""Reads image files of a user, of any size, mode and orientation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from modules.data.base import UserInputError

_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I")


def open_photo(path: str, mode: Literal["L", "RGB"], draft_size: int | None = None) -> Image.Image:
    """Decode an image to 8 bits: rotated by its EXIF data, with a white background, the first of several frames.

    Args:
        path: of the file.
        mode: grey or colour.
        draft_size: decode a JPEG at a reduced size, with no side below this, which is faster; None: full size.

    Raises:
        UserInputError: the image cannot be read.
    """
    try:
        with Image.open(path) as image:
            if draft_size is not None:
                image.draft("RGB", (draft_size, draft_size))
            upright = ImageOps.exif_transpose(image)
            if upright.mode in _SIXTEEN_BITS:
                upright = _of_8_bits(upright)
            if upright.has_transparency_data:
                photo = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
            return upright.convert(mode)
    except (OSError, ValueError, SyntaxError, RuntimeError, EOFError, Image.DecompressionBombError) as err:
        if isinstance(err, UnidentifiedImageError):
            reason = "the file is empty" if _is_empty(path) else "unknown format"
        else:
            reason = getattr(err, "strerror", None) or " ".join(str(err).split())
        raise UserInputError(
            f"{path} cannot be read as an image ({reason}); convert it to JPEG or PNG, or leave it out"
        ) from err


def fit(photo: Image.Image, height: int, width: int) -> Image.Image:
    """Resize a photo and crop its centre to the new aspect ratio; a photo of this size is not changed."""
    scale = min(photo.height / height, photo.width / width)
    wide, high = width * scale, height * scale
    left, top = (photo.width - wide) / 2, (photo.height - high) / 2
    box = (left, top, min(photo.width, left + wide), min(photo.height, top + high))
    return photo.resize((width, height), Image.Resampling.BILINEAR, box=box)


def to_pixels(photo: Image.Image) -> np.ndarray:
    """Return uint8 [height, width, 1 or 3]."""
    pixels = np.array(photo, np.uint8)
    return pixels.reshape(*pixels.shape[:2], -1)


def read_fitted(paths: Sequence[str], image_shape: tuple[int, int, int]) -> Tensor:
    """Read images, resize them and crop their centres.

    Args:
        paths: of image files.
        image_shape: [1 or 3, height, width].

    Returns:
        uint8 [photos, 1 or 3, height, width].

    Raises:
        UserInputError: an image cannot be read.
    """
    channels, height, width = image_shape
    photos = [fit(open_photo(path, "L" if channels == 1 else "RGB"), height, width) for path in paths]
    return torch.stack([torch.from_numpy(to_pixels(photo)).permute(2, 0, 1) for photo in photos])


def _is_empty(path: str) -> bool:
    try:
        return Path(path).stat().st_size == 0
    except OSError:  # it was deleted in the meantime
        return False


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Convert 16-bit grey; `convert` would make all values from 256 on white."""
    numbers = np.asarray(image).astype(np.int64)
    return Image.fromarray((numbers >> (8 if numbers.max(initial=0) > 255 else 0)).clip(0, 255).astype(np.uint8))
