"""Tiny clips of a set of random images in LeCun's idx format."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np

from modules.data.generated.video.described_images import DescribedImages
from modules.data.generated.video.moving_images import MovingImages

SIZES = {
    "num_images": 2,
    "image_size": 3,
    "frame_size": 10,
    "min_speed": 1.0,
    "max_speed": 2.0,
    "num_val": 5,
    "num_test": 40,
}
NAMES = ["ant", "bee", "cat"]


def make_clips(folder: Path, **changes: Any) -> Any:
    """Make a data set; with ``class_names`` one with descriptions."""
    files = write_idx_set(folder / "set", num_train=30, num_test=7, size=(6, 4), num_classes=3)
    shared: dict[str, Any] = {"root": str(folder), "folder": "set", "files": files, **SIZES}
    if "class_names" in changes:
        return DescribedImages(**shared | {"num_seen_frames": 6, "target_vocab_size": 40} | changes)
    return MovingImages(**shared | {"num_seen_frames": 4, "num_predicted_frames": 3} | changes)


def write_idx_set(
    folder: Path, num_train: int, num_test: int, size: tuple[int, int], num_classes: int
) -> dict[str, None]:
    """Write random images of a shape, with all classes; returns `data.files`."""
    folder.mkdir(parents=True, exist_ok=True)
    random, names = np.random.default_rng(0), dict[str, None]()
    for part, count in (("train", num_train), ("t10k", num_test)):
        images = random.integers(1, 256, (count, *size), dtype=np.uint8)
        labels = (np.arange(count) % num_classes).astype(np.uint8)
        for name, array in ((f"{part}-images-idx3-ubyte.gz", images), (f"{part}-labels-idx1-ubyte.gz", labels)):
            head = struct.pack(f">{1 + array.ndim}i", 2048 + array.ndim, *array.shape)
            (folder / name).write_bytes(gzip.compress(head + array.tobytes(), mtime=0))
            names[name] = None
    return names
