"""Photos in one folder per class: what their folders determine. Imports no torch, see `class_folders`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from modules.data.image.decoding import ENDINGS, ImageError, decode, open_image
from modules.data.own.class_folders import FileKind, find_folders


def find_fault(path: Path) -> str | None:
    """Why a file is no photo; None if it can be decoded."""
    try:
        with open_image(path) as image:
            decode(image, "RGB")
    except ImageError as err:
        return str(err)
    return None


PHOTOS: Final = FileKind("photo", ENDINGS, find_fault)


def find_auto_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ImageFolder` that its folders determine.

    Raises:
        ValueError: the folder is missing, or has no photos in one folder per class.
    """
    size = int(data["image_size"])
    optional: dict[str, Any] = {
        "fold": None,
        "num_folds": 5,
        "group_pattern": None,
        "on_bad_example": "error",
        "skipped": [],
    }
    _, found = find_folders(PHOTOS, {**optional, **data})
    return {**found, "image_shape": [3, size, size], "num_features": 3 * size * size}
