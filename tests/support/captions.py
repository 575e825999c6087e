"""A tiny data set of photos with captions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

LINES: list[dict[str, Any]] = [
    {"image": 1, "file": "one", "cls": "Sea", "split": "train", "captions": ["Deep water .", "A boat on the water ."]},
    {"image": 0, "file": "zero", "cls": "Sea", "split": "train", "captions": ["A boat."]},
    {"image": 2, "file": "two", "cls": "town", "split": "val", "captions": ["Houses beside the water ."]},
    {"image": 3, "file": "three", "cls": "town", "split": "test", "captions": ["Many houses .", "A boat ."]},
]
FILES = {"captions.jsonl.gz": None, "photos.npz": None}


def write_captions(root: Path, lines: Sequence[Any] = LINES, sizes: Sequence[tuple[int, int]] = ((9, 7),) * 4) -> Path:
    """Write lines and photos of these sizes, [width, height], to the folder "set"; returns it."""
    folder = root / "set"
    folder.mkdir(exist_ok=True)
    texts = [each if isinstance(each, str) else json.dumps(each) for each in lines]
    (folder / "captions.jsonl.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    photos = []
    for number, size in enumerate(sizes):
        file = BytesIO()
        pixels = np.random.RandomState(number).randint(256, size=(*size[::-1], 3)).astype(np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        photos.append(file.getvalue())
    offsets = np.cumsum([0, *map(len, photos)])
    np.savez(folder / "photos.npz", jpeg=np.frombuffer(b"".join(photos), np.uint8), offsets=offsets)
    return folder
