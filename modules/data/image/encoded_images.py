"""Images laid end to end in one array of bytes, as JPEG or PNG: how a NumPy archive holds many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from itertools import pairwise
from typing import Literal

import numpy as np
from PIL import Image

Mode = Literal["L", "RGB", "classes"]
"""Grey, colours, or the number of a pixel as it stands, also that of a palette's colour."""


def decode(members: Mapping[str, np.ndarray], names: Sequence[str], mode: Mode) -> Iterator[np.ndarray]:
    """Images of an archive, in order.

    Args:
        members: of the archive, each decompressed once.
        names: of two of them: the bytes, uint8 [bytes], and where images begin and the last one ends, int [images + 1].
        mode: what becomes of a pixel.

    Returns:
        uint8 [height, width], or [height, width, 3] of "RGB"; sizes may differ.

    Raises:
        KeyError: there is no such member.
        ValueError, OSError: bytes are no image.
    """
    encoded, offsets = members[names[0]].tobytes(), members[names[1]].tolist()
    for number, (first, last) in enumerate(pairwise(offsets)):
        with Image.open(BytesIO(encoded[first:last])) as image:
            yield np.array(_as_classes(image, number) if mode == "classes" else image.convert(mode), dtype=np.uint8)


def _as_classes(image: Image.Image, number: int) -> Image.Image:
    if image.mode not in ("L", "P", "1"):
        raise ValueError(f"mask {number} has the mode {image.mode}, and a mask has one number of 8 bits a pixel")
    return image


def check_members(owner: str, **members: Sequence[str]) -> None:
    """
    Raises:
        ValueError: one does not name the bytes and their offsets.
    """
    for name, both in members.items():
        if len(both) != 2:
            raise ValueError(
                f"{owner} wants data.{name} as [bytes, offsets], two members of an archive, but got {list(both)}"
            )
