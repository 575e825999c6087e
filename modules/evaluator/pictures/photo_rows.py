"""Pictures of photos in rows, with a title above a row and a note below a photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_SIDE, _GAP, _LINE, _FRAME = 96, 6, 15, 3
_FRAMES = {True: (0, 158, 115), False: (213, 94, 0), None: (255, 255, 255)}
"""Colours of the frame for right and wrong photos, for people with colour blindness. Source: Okabe and Ito 2008."""


@dataclass(frozen=True)
class Shown:
    """A photo in a row."""

    photo: Tensor
    """float [1 or 3, height, width]; its lowest number becomes black and its highest white."""
    note: str = ""
    """Below the photo; several lines."""
    is_right: bool | None = None
    """A green frame or an orange one; None: no frame."""


def draw_photo_rows(rows: Sequence[tuple[str, Sequence[Shown]]]) -> bytes:
    """Return a PNG.

    Args:
        rows: title, which may be empty, and photos; at least one photo in each.
    """
    font = ImageFont.load_default(12)
    framed = _SIDE + 2 * _FRAME
    columns = max(len(photos) for _, photos in rows)
    num_lines = [max(len(each.note.splitlines()) for each in photos) for _, photos in rows]
    heights = [_LINE * (bool(title) + count) + framed + _GAP for (title, _), count in zip(rows, num_lines, strict=True)]
    picture = Image.new("RGB", (columns * (framed + _GAP) + _GAP, sum(heights) + _GAP), "white")
    pen, top = ImageDraw.Draw(picture), _GAP
    for (title, photos), height in zip(rows, heights, strict=True):
        pen.text((_GAP, top), title, fill="black", font=font)
        for column, each in enumerate(photos):
            left, upper = _GAP + column * (framed + _GAP), top + _LINE * bool(title)
            picture.paste(_FRAMES[each.is_right], (left, upper, left + framed, upper + framed))
            photo = to_image(each.photo).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
            picture.paste(photo, (left + _FRAME, upper + _FRAME))
            for line, text in enumerate(each.note.splitlines()):
                pen.text((left, upper + framed + line * _LINE), text, fill="black", font=font)
        top += height
    encoded = BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()


def to_image(photo: Tensor) -> Image.Image:
    """Convert float [1 or 3, height, width] to RGB; its lowest number becomes black and its highest white."""
    pixels = photo.detach().float().cpu().numpy()
    lowest, highest = float(pixels.min()), float(pixels.max())
    pixels = (pixels - lowest) * (255 / max(highest - lowest, 1e-6))
    return Image.fromarray(np.broadcast_to(pixels.transpose(1, 2, 0), (*pixels.shape[1:], 3)).round().astype(np.uint8))
