"""Reads image files of a user, of any size, and fits them to the size of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.data.base import UserInputError
from modules.data.image.decoding import ImageError, decode, open_image


def open_photo(path: str, mode: Literal["L", "RGB"]) -> Image.Image:
    """Decode an image of a user, see `decoding.decode`.

    Raises:
        UserInputError: the image cannot be read.
    """
    try:
        with open_image(Path(path)) as image:
            return decode(image, mode)
    except ImageError as err:
        raise unreadable(path, err) from err


def unreadable(path: str, err: ImageError) -> UserInputError:
    """The error for an image of a user that cannot be read."""
    return UserInputError(f"{path} cannot be read as an image ({err}); convert it to JPEG or PNG, or leave it out")


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
