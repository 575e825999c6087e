"""Log-mel features of recordings of different lengths, with random changes for training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modules.data.audio.log_mel import LogMel
from modules.data.sampling.example_random import ExampleRandom


@dataclass(frozen=True)
class SpeechFeatures:
    """Computes log-mel features of recordings.

    All bands are scaled alike. With a mean and a deviation of each recording's own bands, which hides the microphone, mixtures of
    Gaussians made three times as many errors on single digits (2026-11-30): it hides the sound of a short word, too.
    """

    log_mel: LogMel
    mean: float
    """Subtracted from the log-mel features."""
    std: float
    """Their divisor."""

    def __call__(self, sounds: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Compute the features of recordings.

        Args:
            sounds: samples, float32 [samples] each.

        Returns:
            float [recordings, frames, bands], 0 after the end of a recording; and the numbers of frames, int64 [recordings].
        """
        clips = torch.zeros(len(sounds), max(map(len, sounds)))
        for clip, sound in zip(clips, sounds, strict=True):
            clip[: len(sound)] = torch.from_numpy(sound)
        features = (self.log_mel(clips).transpose(1, 2) - self.mean) / self.std
        lengths = torch.tensor([self.log_mel.count_frames(len(sound)) for sound in sounds])
        is_padding = torch.arange(features.shape[1]) >= lengths[:, None]
        return features.masked_fill(is_padding[:, :, None], 0.0), lengths


@dataclass(frozen=True)
class SpeechDistortion:
    """Random changes of training recordings; speed and loudness go up or down, each by at most the given size."""

    speed: float = 0.0
    """Largest change of the speed and so of the pitch, as a fraction."""
    gain_db: float = 0.0
    """Largest change of the loudness, in decibels."""
    noise: float = 0.0
    """Largest amplitude of white noise, as a fraction of the recording's own."""
    mask_bands: int = 0
    """Most neighbouring bands that are set to 0. Source of both masks: Park et al. 2019, arXiv:1904.08779."""
    mask_frames: int = 0
    """Most neighbouring frames that are set to 0."""

    def check(self, owner: str) -> None:
        """
        Raises:
            ValueError: a size is out of range.
        """
        others = {name: getattr(self, name) for name in ("gain_db", "noise", "mask_bands", "mask_frames")}
        if not 0 <= self.speed < 1 or min(others.values()) < 0:
            raise ValueError(
                f"{owner} wants speed in [0, 1) and {', '.join(others)} of at least 0, but got speed={self.speed} and {others}; "
                "0 switches a change off"
            )

    def change_sounds(self, sounds: Sequence[np.ndarray], random: ExampleRandom) -> list[np.ndarray]:
        """Change speed, loudness and noise of recordings, each by its own random numbers."""
        speeds, levels = 1 + self.speed * (2 * random.uniform() - 1), self.noise * random.uniform()
        gains = 10 ** (self.gain_db / 20 * (2 * random.uniform() - 1))
        changed = list[np.ndarray]()
        draws = zip(sounds, speeds.tolist(), gains.tolist(), levels.tolist(), strict=True)
        for row, (sound, speed, gain, level) in enumerate(draws):
            new: np.ndarray = sound * np.float32(gain)
            if self.speed:
                new = _stretch(new, speed)
            if self.noise:
                noise = torch.randn(len(new), generator=random.generator(row)).numpy()
                new = new + np.float32(level * np.sqrt(np.mean(np.square(new)))) * noise
            changed.append(new)
        return changed

    def mask(self, features: Tensor, lengths: Tensor, random: ExampleRandom) -> Tensor:
        """Set some neighbouring bands and frames of each recording to 0, the mean.

        Args:
            features: float [recordings, frames, bands].
            lengths: valid frames, int64 [recordings].
            random: of the recordings.
        """
        _, num_frames, num_bands = features.shape
        kept = ~_draw_range(torch.full_like(lengths, num_bands), self.mask_bands, num_bands, random)[:, None, :]
        return features * kept * ~_draw_range(lengths, self.mask_frames, num_frames, random)[:, :, None]


def _stretch(sound: np.ndarray, speed: float) -> np.ndarray:
    """Play a recording faster or slower, by linear interpolation."""
    places = np.arange(max(1, int(len(sound) / speed)), dtype=np.float32) * np.float32(speed)
    before = places.astype(np.int32).clip(max=len(sound) - 1)
    fraction = places - before
    return np.asarray(sound[before] * (1 - fraction) + sound[np.minimum(before + 1, len(sound) - 1)] * fraction)


def _draw_range(limits: Tensor, most: int, size: int, random: ExampleRandom) -> Tensor:
    """Draw up to ``most`` neighbours within each limit, bool [recordings, size]."""
    width = (random.uniform() * (most + 1)).long().minimum(limits)
    start = (random.uniform() * (limits - width + 1)).long()
    places = torch.arange(size)
    return (places >= start[:, None]) & (places < (start + width)[:, None])
