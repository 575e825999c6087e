"""A small archive of photos with masks, for tests."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modules.data.mask_archive import MaskArchive

NAMES = ("town1_a", "town1_b", "town2_a", "town3_a", "town3_b", "town4_a")
SIZES = ((9, 12), (10, 8), (7, 12), (10, 12), (5, 6), (10, 11))  # height, width


def encode(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, kind)
    return encoded.getvalue()


def laid_end_to_end(images: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    return np.frombuffer(b"".join(images), np.uint8), np.cumsum([0, *map(len, images)])


def photo_and_mask(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A photo whose red says the row, green the column and blue the class of a pixel, and its mask of 0, 3, 5 and 7."""
    height, width = SIZES[number]
    rows, columns = np.mgrid[:height, :width]
    mask = np.array([0, 3, 5, 7], np.uint8)[np.random.RandomState(number).randint(4, size=(height, width))]
    return np.stack([rows, columns, mask], axis=-1).astype(np.uint8), mask


def write_archive(path: Path, numbers: Sequence[int] = range(6), **replaced: Any) -> None:
    photos, masks = zip(*map(photo_and_mask, numbers), strict=True)
    jpeg, jpeg_offsets = laid_end_to_end([encode(photo) for photo in photos])  # PNG keeps every number
    mask_png, mask_offsets = laid_end_to_end([encode(mask) for mask in masks])
    mask2_png, mask2_offsets = laid_end_to_end([encode(np.full_like(mask, 3)) for mask in masks])
    members = {
        "jpeg": jpeg, "jpeg_offsets": jpeg_offsets, "mask_png": mask_png, "mask_offsets": mask_offsets,
        "mask2_png": mask2_png, "mask2_offsets": mask2_offsets, "names": np.array([NAMES[number] for number in numbers]),
    }  # fmt: skip
    np.savez(path, **{name: value for name, value in (members | replaced).items() if value is not None})


def archive(folder: Path, **changed: Any) -> MaskArchive:
    """Towns 1 and 2 to train, 3 to validate and 4 to test."""
    given: dict[str, Any] = {
        "root": str(folder.parent), "folder": folder.name, "files": {"tiny.npz": None}, "photos": ["jpeg", "jpeg_offsets"],
        "masks": ["mask_png", "mask_offsets"], "second_masks": None, "names": "names", "positive_values": [3],
        "ignored_values": [7], "group_pattern": r"town\d", "shuffle_seed": None, "num_val_groups": 1, "num_test_groups": 1,
        "crops_per_photo": 4, "num_train": 12, "flip": False, "turn": False, "jitter": 0.0, "image_shape": [3, 4, 6],
        "eval_size": [10, 12], "num_features": 72, "num_classes": 2,
    }  # fmt: skip
    return MaskArchive(**(given | changed))
