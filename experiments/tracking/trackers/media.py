"""Files among the artifacts of a run that trackers show: images, sounds, texts and histograms."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments.core.files.read_file import DamagedFileError, read_json_map

FOLDER = "media/"
"""Beginning of the paths of what callbacks make: ``media/CALLBACK/step_00000100/NAME``."""
HISTOGRAMS = "histograms.json"
KINDS: dict[str, Literal["image", "sound", "text"]] = {
    ".png": "image", ".jpg": "image", ".jpeg": "image", ".gif": "image", ".wav": "sound", ".txt": "text",
}  # fmt: skip


@dataclass(frozen=True)
class MediaFile:
    """A file that a tracker shows."""

    path: Path
    kind: Literal["image", "sound", "text", "histograms"]
    tag: str
    """Its name in the tracker; what a callback makes at several steps has one name."""
    step: int


def find_media(path: Path, name: str) -> Iterator[MediaFile]:
    """Find the files of an artifact that a tracker shows.

    Args:
        path: of the artifact, a file or a folder. Links in it, which could lead out of the run, are left out.
        name: its path in the run folder.
    """
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_symlink() or not file.is_file():
            continue
        inside = f"{name}/{file.relative_to(path).as_posix()}" if path.is_dir() else name
        is_of_callback = inside.startswith(FOLDER)
        kind = "histograms" if is_of_callback and file.name == HISTOGRAMS else KINDS.get(file.suffix.lower())
        if kind is None or (kind in ("sound", "text") and not is_of_callback):
            continue
        step = re.search(r"step_?(\d{1,18})", inside)
        tag = inside
        if is_of_callback:
            tag = re.sub(r"/step_\d+(?=/)", "", inside.removeprefix(FOLDER))
            tag = tag.removesuffix(file.suffix)
        yield MediaFile(file, kind, tag, int(step[1]) if step else 0)


@dataclass(frozen=True)
class LoggedHistogram:
    """How often values are in each of equal intervals."""

    name: str
    low: float
    high: float
    counts: list[int]
    mean: float
    std: float

    @property
    def edges(self) -> list[float]:
        """The ends of all intervals; one more than counts."""
        width = (self.high - self.low) / len(self.counts)
        return [self.low + width * number for number in range(len(self.counts))] + [self.high]


def read_histograms(path: Path) -> list[LoggedHistogram]:
    """Read a file with histograms; those that are damaged are left out."""
    try:
        content = read_json_map(path)
    except DamagedFileError:
        return []
    return [LoggedHistogram(name, *_values(each)) for name, each in content.items() if _is_valid(each)]


def _values(each: dict[str, Any]) -> tuple[float, float, list[int], float, float]:
    return float(each["low"]), float(each["high"]), each["counts"], float(each["mean"]), float(each["std"])


def _is_valid(each: object) -> bool:
    if not isinstance(each, dict) or not isinstance(each.get("counts"), list) or not each["counts"]:
        return False
    numbers = [each.get(name) for name in ("low", "high", "mean", "std")]
    are_numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in numbers)
    return are_numbers and all(type(count) is int and count >= 0 for count in each["counts"])
