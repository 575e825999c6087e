"""One picture in files of many kinds, for tests of data sets that decode photos."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}
"""How the picture is stored, by the EXIF orientation that brings it upright again."""

KINDS: dict[str, dict[str, Any]] = {"PNG": {}, "JPEG": {"quality": 100}, "TIFF": {}, "WEBP": {"lossless": True}}
"""How the picture is stored with an orientation."""

RAMP = np.add.outer(np.arange(24) * 7, np.arange(30) * 4).clip(0, 255).astype(np.uint8)
"""The picture that all files below show."""


def odd_files() -> dict[str, bytes]:
    """The same picture in files that need more than `convert`."""
    grey = Image.fromarray(RAMP)
    hidden = np.dstack([np.where(RAMP == 255, 9, RAMP)] * 3 + [np.where(RAMP == 255, 0, 255)]).astype(np.uint8)
    deep = Image.fromarray(np.where(RAMP == 255, 77, RAMP.astype(np.uint16) * 257).astype(np.uint16))
    files = {
        "16 bits.png": save(Image.fromarray(RAMP.astype(np.uint16) * 257), "PNG"),
        "16 bits.tif": save(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF"),
        "16 bits with a transparent value.png": save(deep, "PNG", transparency=77),
        "24 bits.tif": save(Image.fromarray(RAMP.astype(np.int32) << 16), "TIFF"),
        "float of 0 to 1.tif": save(Image.fromarray((RAMP / 255).astype(np.float32)), "TIFF"),
        "float of 0 to 255.tif": save(Image.fromarray(RAMP.astype(np.float32)), "TIFF"),
        "transparent.png": save(Image.fromarray(hidden), "PNG"),
        "transparent palette.png": save(grey.convert("P"), "PNG", transparency=255),
        **{f"{mode}.tif": save(grey.convert(mode), "TIFF") for mode in ("RGB", "RGBA", "P", "LA", "CMYK")},
    }
    for orientation, turn in TURNS.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = grey.convert("RGB").transpose(Image.Transpose[turn])
        for kind, more in KINDS.items():
            files[f"orientation {orientation}.{kind.lower()}"] = save(stored, kind, exif=exif, **more)
    return files


def save(image: Image.Image, kind: str, **more: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **more)
    return file.getvalue()
