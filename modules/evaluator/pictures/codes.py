"""Pictures of codes: a map in the plane, and the examples that excite a unit most."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_COLOURS = (
    (0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (200, 180, 0), (0, 114, 178), (213, 94, 0), (204, 121, 167),
    (120, 120, 120), (150, 80, 30),
)  # fmt: skip
_MAP_PIXELS, _MARGIN, _SCALE = 800, 16, 2


def draw_map(codes: Tensor, classes: Tensor) -> bytes:
    """Draw the first two principal components of codes as a PNG; an example is the number of its class.

    Args:
        codes: float [examples, code_size].
        classes: int64 [examples].
    """
    centred = (codes - codes.mean(0)).double().cpu()
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    places = (centred @ vectors[:, -2:].flip(1)).numpy()
    if places.shape[1] == 1:  # a code of one number
        places = np.concatenate([places, np.zeros_like(places)], axis=1)
    span = np.maximum(places.max(0) - places.min(0), 1e-9)
    corner = _MARGIN + (places - places.min(0)) / span * (_MAP_PIXELS - 2 * _MARGIN)
    picture = Image.new("RGB", (_MAP_PIXELS, _MAP_PIXELS), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for (x, y), number in zip(corner, classes.tolist(), strict=True):
        pen.text((x, _MAP_PIXELS - y), str(number), fill=_COLOURS[number % len(_COLOURS)], font=font, anchor="mm")
    return _png(picture)


def draw_exciting(codes: Tensor, images: Tensor, num_units: int = 16, num_images: int = 10) -> bytes:
    """Draw the images with the highest numbers of a unit in a row, for the first units, as a PNG.

    Source: Le et al. 2012, arXiv:1112.6209, which found a unit for cats.

    Args:
        codes: float [examples, code_size].
        images: float [examples, 1 or 3, height, width], from 0 to 1.
        num_units: rows.
        num_images: columns.
    """
    best = codes.topk(min(num_images, len(codes)), dim=0).indices[:, :num_units].T  # [units, images]
    shown = (images[best].clamp(0, 1) * 255).round().to(torch.uint8).cpu()  # [units, images, channels, height, width]
    units, columns, channels, height, width = shown.shape
    grid = shown.permute(0, 3, 1, 4, 2).reshape(units * height, columns * width, channels).expand(-1, -1, 3)
    picture = Image.fromarray(np.ascontiguousarray(grid.numpy()))
    return _png(picture.resize((picture.width * _SCALE, picture.height * _SCALE), Image.Resampling.NEAREST))


def _png(image: Image.Image) -> bytes:
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()
