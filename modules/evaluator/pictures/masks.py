"""PNG images of photos and masks."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

import numpy as np
from PIL import Image
from torch import Tensor

from modules.data.base import IGNORED

_PALETTE = np.array(
    [[0, 0, 0], [255, 255, 255], [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0],
     [204, 121, 167]], np.uint8,
)  # fmt: skip
"""Black and white for two classes, then colours for people with colour blindness. Source: Okabe and Ito 2008."""
_GREY, _GAP = 96, 4


def side_by_side(photo: Tensor, masks: Sequence[Tensor]) -> bytes:
    """Return a PNG with the photo on the left and the masks next to it.

    Args:
        photo: float [1 or 3, height, width]; its lowest number becomes black and its highest white.
        masks: int64 [height, width] each, classes, or `IGNORED`, which is grey. The first is the true mask; ignored rows at
            its bottom and columns at its right are padding and are cut off.
    """
    height, width = _counted(masks[0])
    photo, masks = photo[:, :height, :width], [mask[:height, :width] for mask in masks]
    pixels = photo.detach().float().cpu().numpy()
    lowest, highest = float(pixels.min()), float(pixels.max())
    pixels = (pixels - lowest) * (255 / max(highest - lowest, 1e-6))
    images = [np.broadcast_to(pixels.transpose(1, 2, 0), (*pixels.shape[1:], 3)).round().astype(np.uint8)]
    images += [_coloured(mask.cpu().numpy()) for mask in masks]
    gap = np.full((pixels.shape[1], _GAP, 3), _GREY, np.uint8)
    row = [part for each in images for part in (each, gap)][:-1]
    return _png(Image.fromarray(np.concatenate(row, axis=1)))


def mask_file(mask: Tensor) -> bytes:
    """Return a PNG whose pixel values are classes, with a palette.

    Args:
        mask: int64 [height, width], classes below 256.
    """
    image = Image.fromarray(mask.cpu().numpy().astype(np.uint8))
    image.putpalette(_coloured(np.arange(256)).tobytes())
    return _png(image)


def overlay(photo: Image.Image, mask: Tensor, background: int | None) -> bytes:
    """Return a PNG of a photo in which every class except the background is coloured.

    Args:
        photo: RGB, of the size of the mask.
        mask: int64 [height, width].
        background: the class that is not coloured; None: all classes are coloured.
    """
    classes, pixels = mask.cpu().numpy(), np.asarray(photo)
    tint = _PALETTE[2 + classes % (len(_PALETTE) - 2)]  # without black and white; the second of two classes is blue
    mixed = (pixels * 0.3 + tint * 0.7).round().astype(np.uint8)
    coloured = np.where((classes == (-1 if background is None else background))[..., None], pixels, mixed)
    return _png(Image.fromarray(coloured))


def _png(image: Image.Image) -> bytes:
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def _counted(truth: Tensor) -> tuple[int, int]:
    """Return height and width up to the last pixel that is not ignored; the whole size if all are ignored."""
    counts = truth != IGNORED
    if not counts.any():
        return truth.shape[0], truth.shape[1]
    return int(counts.any(dim=1).nonzero().max()) + 1, int(counts.any(dim=0).nonzero().max()) + 1


def _coloured(mask: np.ndarray) -> np.ndarray:
    """Return uint8 [height, width, 3]; with more classes than colours, the colours after black and white repeat."""
    number = np.where(mask < 2, mask.clip(min=0), 2 + (mask - 2) % (len(_PALETTE) - 2))
    return np.where((mask == IGNORED)[..., None], np.uint8(_GREY), _PALETTE[number])
