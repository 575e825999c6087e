"""Log-mel features of sound, the usual inputs of models of speech."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

FLOOR = 1e-6
"""Added to the energy of a band, so that silence has a logarithm."""


@dataclass(frozen=True)
class LogMel:
    """The logarithm of the energy in bands that are equally wide on the mel scale, for windows that overlap.

    Source: Davis and Mermelstein 1980, doi:10.1109/TASSP.1980.1163420; scale of O'Shaughnessy 1987.
    """

    sample_rate: int
    """Samples per second."""
    num_bands: int = 40
    window_s: float = 0.025
    hop_s: float = 0.01

    def __call__(self, samples: Tensor) -> Tensor:
        """Return float [..., num_bands, frames] of float [..., samples]; see `count_frames`."""
        spectrum = torch.stft(
            samples, self._fft_size, self._hop, self._window, torch.hann_window(self._window),
            center=True, pad_mode="constant", return_complex=True,
        )  # fmt: skip
        power = spectrum.real.square() + spectrum.imag.square()  # half the time of abs().square() (2026-11-30)
        return (self._filters @ power + FLOOR).log()

    def count_frames(self, num_samples: int) -> int:
        """Frames of a sound: one for each hop, and one for its end."""
        return num_samples // self._hop + 1

    @property
    def _hop(self) -> int:
        return round(self.hop_s * self.sample_rate)

    @property
    def _window(self) -> int:
        return round(self.window_s * self.sample_rate)

    @property
    def _fft_size(self) -> int:
        """Twice the next power of 2, so that the lowest bands have frequencies of their own."""
        return int(2 << (self._window - 1).bit_length())

    @cached_property
    def _filters(self) -> Tensor:
        """Triangles, float [num_bands, frequencies]; neighbours overlap by half.

        Raises:
            ValueError: a band is narrower than the distance of two frequencies.
        """
        highest = _to_mel(torch.tensor(self.sample_rate / 2))
        edges = 700 * (10 ** (torch.linspace(0, float(highest), self.num_bands + 2) / 2595) - 1)
        frequencies = torch.linspace(0, self.sample_rate / 2, self._fft_size // 2 + 1)
        below, centre, above = (edges[start : start + self.num_bands, None] for start in range(3))
        filters = torch.minimum((frequencies - below) / (centre - below), (above - frequencies) / (above - centre))
        filters.clamp_(min=0)
        if not filters.any(1).all():
            raise ValueError(
                f"data.num_bands={self.num_bands} is too many for data.sample_rate={self.sample_rate}; set 40"
            )
        return filters


def _to_mel(frequency: Tensor) -> Tensor:
    return 2595 * torch.log10(1 + frequency / 700)
