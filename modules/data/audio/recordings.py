"""Reads recordings as features of one length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.data.audio.log_mel import LogMel
from modules.data.audio.wav import WavError, read_wav
from modules.data.base import UserInputError
from modules.data.own.folder_split import UnreadableError
from modules.data.sampling.example_random import ExampleRandom


@dataclass(frozen=True)
class Recordings:
    """Cuts or pads recordings to ``clip_s`` seconds and computes their log-mel features."""

    log_mel: LogMel
    clip_s: float
    mean: tuple[float, ...]
    """Of each band, subtracted."""
    std: tuple[float, ...]
    """The divisor of each band."""

    @property
    def num_samples(self) -> int:
        return round(self.clip_s * self.log_mel.sample_rate)

    @property
    def num_frames(self) -> int:
        return self.log_mel.count_frames(self.num_samples)

    def batch(self, paths: Sequence[Path], seeds: Tensor | None) -> Tensor:
        """Read recordings.

        Args:
            paths: of WAV files.
            seeds: of the random position of a longer recording in the clip, and of a shorter one in silence, int64 [recordings];
                None: the middle.

        Returns:
            float [recordings, 1, bands, frames].

        Raises:
            UnreadableError: a file cannot be read.
        """
        places = torch.full((len(paths), 1), 0.5) if seeds is None else ExampleRandom(seeds).uniform(1)
        clips = torch.zeros(len(paths), self.num_samples)
        for number, (path, place) in enumerate(zip(paths, places[:, 0].tolist(), strict=True)):
            try:
                samples = read_wav(path, self.log_mel.sample_rate)
            except WavError as err:
                raise UnreadableError(number, str(err)) from err
            _place(samples, clips[number].numpy(), place)
        features = self.log_mel(clips)
        mean, std = (torch.tensor(each)[:, None] for each in (self.mean, self.std))
        return ((features - mean) / std)[:, None]

    def read(self, paths: Sequence[str]) -> Tensor:
        """Read recordings of a user, as in evaluation.

        Raises:
            UserInputError: a file cannot be read.
        """
        try:
            return self.batch([Path(path) for path in paths], None)
        except UnreadableError as err:
            raise UserInputError(
                f"{paths[err.number]} cannot be read as a recording ({err}); convert it to a WAV file, or leave it out"
            ) from err


def _place(samples: np.ndarray, clip: np.ndarray, place: float) -> None:
    """Copy samples into a clip: a part of them if they are longer, else between silence. ``place`` is in [0, 1)."""
    spare = len(samples) - len(clip)
    start = int(place * (abs(spare) + 1))
    if spare >= 0:
        clip[:] = samples[start : start + len(clip)]
    else:
        clip[start : start + len(samples)] = samples
