"""Pictures of numbers over time."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_ROW_PIXELS, _MAX_WIDTH, _MARGIN, _LABEL = 2, 1200, 12, 16


def draw_time_maps(rows: dict[str, Tensor]) -> bytes:
    """Draw maps of numbers below each other as a PNG: black is the lowest number of a map, white its highest.

    Args:
        rows: by title, float [time, units]; all have the same time.
    """
    time = max(len(values) for values in rows.values())
    pixels = max(1, min(16, _MAX_WIDTH // time))
    maps, titles = [], []
    for name, values in rows.items():
        numbers = values.detach().float().cpu().numpy().T
        numbers = numbers[np.argsort(numbers.mean(1), kind="stable")] if len(numbers) > 16 else numbers
        titles.append(f"{name}: {numbers.min():.2f} to {numbers.max():.2f}")
        span = max(float(numbers.max() - numbers.min()), 1e-6)
        grey = ((numbers - numbers.min()) * (255 / span)).round().astype(np.uint8)
        maps.append(grey.repeat(max(_ROW_PIXELS, math.ceil(32 / len(grey))), axis=0).repeat(pixels, axis=1))
    height = sum(len(each) + _LABEL + _MARGIN for each in maps) + _MARGIN
    picture = Image.new("L", (time * pixels + 2 * _MARGIN, height), 255)
    pen, font, top = ImageDraw.Draw(picture), ImageFont.load_default(12), _MARGIN
    for title, each in zip(titles, maps, strict=True):
        pen.text((_MARGIN, top), title, fill=0, font=font)
        picture.paste(Image.fromarray(each), (_MARGIN, top + _LABEL))
        top += _LABEL + len(each) + _MARGIN
    encoded = BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()
