"""A picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_CELL, _GAP, _LETTERS = 34, 6, 16
_WHITE, _FULL = (255, 255, 255), (0, 114, 178)


def draw_confusion(matrix: Tensor, names: Sequence[str]) -> bytes:
    """Return a PNG: a row for each true class, a column for each predicted one; darker cells have more of their row.

    Args:
        matrix: counts, [classes, classes].
        names: of the classes.
    """
    font, labels = ImageFont.load_default(12), [name[:_LETTERS] for name in names]
    margin = 2 * _GAP + int(max(font.getlength(label) for label in labels))
    side = margin + len(labels) * _CELL + _GAP
    picture = Image.new("RGB", (side, side), "white")
    pen = ImageDraw.Draw(picture)
    for row, label in enumerate(labels):
        near = margin + row * _CELL
        name = Image.new("RGB", (margin - _GAP, _CELL), "white")
        ImageDraw.Draw(name).text((0, _CELL // 2), label, fill="black", font=font, anchor="lm")
        picture.paste(name, (_GAP, near))
        picture.paste(name.transpose(Image.Transpose.ROTATE_90), (near, 0))
        total = max(float(matrix[row].sum()), 1.0)
        for column, count in enumerate(matrix[row].long().tolist()):
            left, share = margin + column * _CELL, count / total
            colour = tuple(round(white + share * (full - white)) for white, full in zip(_WHITE, _FULL, strict=True))
            pen.rectangle((left, near, left + _CELL - 2, near + _CELL - 2), fill=colour)
            if count:
                ink = "white" if share > 0.5 else "black"
                pen.text((left + _CELL // 2, near + _CELL // 2), str(count), fill=ink, font=font, anchor="mm")
    return _png(picture)


def _png(image: Image.Image) -> bytes:
    encoded = BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()
