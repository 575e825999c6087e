"""Recordings in one folder per class: what their files determine. Imports torch only when it computes features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from modules.data.audio.wav import ENDINGS, FLOAT, WavError, read_header, read_wav
from modules.data.own.class_folders import FileKind, find_folders

if TYPE_CHECKING:
    from modules.data.audio.log_mel import LogMel

Read = TypeVar("Read")

MOST_MEASURED: Final = 200
"""Training recordings, evenly spaced in the list of all, from which means and deviations are computed."""
HIGHEST_RATE: Final = 16000
"""Samples per second that `auto` chooses at most: speech has little above 8 kHz."""
LONGEST_S: Final = 10.0
"""Seconds that `auto` chooses at most."""
COVERED: Final = 0.95
"""Fraction of the training recordings that `auto` does not cut."""
DIGITS: Final = 6


def find_fault(path: Path) -> str | None:
    """Why a file is no recording; None if it can be read."""
    try:
        if read_header(path).encoding == FLOAT:  # only floats can be damaged behind a valid header
            read_wav(path, HIGHEST_RATE)
    except WavError as err:
        return str(err)
    return None


RECORDINGS: Final = FileKind("recording", ENDINGS, find_fault)


def find_auto_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `AudioFolder` that its files determine.

    Raises:
        ValueError: the folder is missing, has no recordings in one folder per class, or one cannot be read.
    """
    from modules.data.audio.log_mel import LogMel

    folders, found = find_folders(RECORDINGS, data)
    paths = [folders.path / folders.split_folders["train"] / name for name in folders.files("train")[0]]
    rate, clip_s = data["sample_rate"], data["clip_s"]
    if "auto" in (rate, clip_s):
        headers = [_read(path, read_header) for path in paths]
        common = Counter(header.rate for header in headers).most_common(1)[0][0]
        rate = min(common, HIGHEST_RATE) if rate == "auto" else rate
        seconds = sorted(header.duration_s for header in headers)[ceil(COVERED * len(headers)) - 1]
        clip_s = max(0.1, min(ceil(seconds * 10) / 10, LONGEST_S)) if clip_s == "auto" else clip_s
    log_mel = LogMel(int(rate), int(data["num_bands"]))
    mean, std = data["mean"], data["std"]
    if "auto" in (mean, std):
        measured = _measure(paths[:: ceil(len(paths) / MOST_MEASURED)], log_mel)
        mean, std = (own if given == "auto" else given for given, own in zip((mean, std), measured, strict=True))
    frames = log_mel.count_frames(round(float(clip_s) * log_mel.sample_rate))
    return {
        **found, "sample_rate": rate, "clip_s": clip_s, "mean": mean, "std": std,
        "image_shape": [1, log_mel.num_bands, frames], "num_features": log_mel.num_bands * frames,
    }  # fmt: skip


def _measure(paths: Sequence[Path], log_mel: LogMel) -> tuple[list[float], list[float]]:
    """Mean and deviation of each band over all frames of some recordings."""
    import torch

    def read(path: Path) -> np.ndarray:
        return read_wav(path, log_mel.sample_rate)

    frames = torch.cat([log_mel(torch.from_numpy(_read(path, read))) for path in paths], dim=1).double()
    mean, std = (
        [float(f"{number:.{DIGITS}g}") for number in each.tolist()]
        for each in (frames.mean(1), frames.std(1, correction=0))
    )
    return mean, [number or 1.0 for number in std]


def _read(path: Path, read: Callable[[Path], Read]) -> Read:
    try:
        return read(path)
    except WavError as err:
        raise ValueError(
            f"{path} cannot be read as a recording ({err}); replace or remove it, or set data.on_bad_example=skip to train "
            "without such files"
        ) from err
