"""Many JPEG or PNG images, concatenated in one byte array of a NumPy archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image

from modules.data.image.decoding import decode, load_upright, open_image

Mode = Literal["L", "RGB", "classes"]
"""Grey, colour, or the stored value of a pixel, which may be the index of a palette."""


def decode_all(members: Mapping[str, np.ndarray], names: Sequence[str], mode: Mode) -> Iterator[np.ndarray]:
    """Decode the images of an archive, in order.

    Args:
        members: of the archive.
        names: of two members: the bytes, uint8 [bytes], and the start offsets with the end of the last image, int [images + 1].
        mode: how pixels are converted; photos and masks are rotated by their EXIF data.

    Returns:
        uint8 [height, width], or [height, width, 3] for "RGB"; sizes may differ.

    Raises:
        KeyError: a member is missing.
        ValueError: the bytes are not an image.
    """
    encoded, offsets = members[names[0]].tobytes(), members[names[1]].tolist()
    for number, (first, last) in enumerate(pairwise(offsets)):
        with open_image(encoded[first:last]) as image:
            photo = _as_classes(load_upright(image), number) if mode == "classes" else decode(image, mode)
        yield np.array(photo, dtype=np.uint8)


def _as_classes(image: Image.Image, number: int) -> Image.Image:
    if image.mode not in ("L", "P", "1"):
        raise ValueError(f"mask {number} has the mode {image.mode}, but a mask has one 8-bit value per pixel")
    return image


def check_members(owner: str, **members: Sequence[str]) -> None:
    """
    Raises:
        ValueError: a value does not name two members.
    """
    for name, both in members.items():
        if len(both) != 2:
            raise ValueError(
                f"{owner} wants data.{name} as [bytes, offsets], two members of an archive, but got {list(both)}"
            )
