"""Reads WAV files: PCM of 8, 16, 24 or 32 bits and floats, with any number of channels. Imports no torch."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np

ENDINGS: Final = (".wav", ".wave")
PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE
BITS: Final = {PCM: (8, 16, 24, 32), FLOAT: (32, 64)}
UNKNOWN_SIZES: Final = (0, 0xFFFFFFFF)
"""What a program writes as the size of the samples if it does not know it yet, such as in a pipe."""
MAX_SAMPLES: Final = 2**27
"""Most samples of a file, over all channels: as floats they take 0.5 GB."""
RATES: Final = (1000, 768_000)
"""Lowest and highest samples per second; a damaged header may say 1 or 4 billion, which no memory can resample."""
LOUDEST: Final = 2.0**32
"""Largest float of a file. Recordings are in [-1, 1], or have the numbers of 16 or 32 bits; the energy of more is infinite."""
FORMAT_BYTES: Final = 40


class WavError(ValueError):
    """A file cannot be read as WAV; the message is the reason, without the name of the file."""


@dataclass(frozen=True)
class WavHeader:
    """What a WAV file says about its samples."""

    rate: int
    """Samples per second of a channel."""
    channels: int
    encoding: int
    """`PCM` or `FLOAT`."""
    bits: int
    first_byte: int
    """Of the samples."""
    length: int
    """Samples of a channel."""

    @property
    def duration_s(self) -> float:
        return self.length / self.rate


def read_header(path: Path) -> WavHeader:
    """Read the header of a file. A file with a valid header has all its samples.

    Raises:
        WavError: it is no WAV file, is truncated or empty, or has an encoding that is not supported.
    """
    try:
        if not stat.S_ISREG((status := os.stat(path)).st_mode):
            raise WavError("it is not a file")  # reading a named pipe would wait for ever
        with path.open("rb") as file:
            return _read_header(file, status.st_size)
    except OSError as err:
        raise WavError(err.strerror or str(err)) from err
    except struct.error as err:
        raise WavError("its header is truncated") from err


def read_wav(path: Path, rate: int) -> np.ndarray:
    """Read the mean of the channels of a file at another rate, float32 [samples], mostly in [-1, 1].

    Raises:
        WavError: as `read_header`, or a sample is not a number, or far too large.
    """
    header = read_header(path)
    if header.length * rate > MAX_SAMPLES * header.rate:
        raise WavError(f"it has more than {MAX_SAMPLES:,} samples at {rate:,} per second; cut it")
    with path.open("rb") as file:
        file.seek(header.first_byte)
        content = file.read(header.length * header.channels * header.bits // 8)
    samples = _decode(content, header).reshape(header.length, header.channels).mean(axis=1)
    if not (np.abs(samples) <= LOUDEST).all():
        raise WavError(f"it has samples that are no numbers from -{LOUDEST:g} to {LOUDEST:g}")
    return resample(samples, header.rate, rate).astype(np.float32)


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Convert samples to another rate, with a low-pass filter of scipy."""
    if rate == new_rate:
        return samples
    from scipy.signal import resample_poly

    common = gcd(rate, new_rate)
    return np.asarray(resample_poly(samples, new_rate // common, rate // common))


def _read_header(file: BinaryIO, size: int) -> WavHeader:
    magic = file.read(12)
    if magic[:4] != b"RIFF" or magic[8:] != b"WAVE":
        raise WavError("it is no WAV file" if magic else "the file is empty")
    form: tuple[int, int, int, int] | None = None
    while True:
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"data":
            break
        start = file.tell()
        if name == b"fmt ":
            form = _read_format(file.read(min(length, FORMAT_BYTES)))
        file.seek(start + length + length % 2)
    if form is None:
        raise WavError("its header does not say how samples are encoded")
    encoding, channels, rate, bits = form
    first, frame = file.tell(), channels * bits // 8
    if length in UNKNOWN_SIZES:
        length = size - first
    if first + length > size:
        raise WavError(f"it is truncated: it has {size - first:,} of {length:,} bytes of sound")
    if length < frame:
        raise WavError("it has no sound")
    if length // (bits // 8) > MAX_SAMPLES:
        raise WavError(f"it has more than {MAX_SAMPLES:,} samples; cut it")
    return WavHeader(rate, channels, encoding, bits, first, length // frame)


def _read_format(content: bytes) -> tuple[int, int, int, int]:
    """Encoding, channels, rate and bits."""
    encoding, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if encoding == EXTENSIBLE:
        (encoding,) = struct.unpack("<H", content[24:26])
    if bits not in BITS.get(encoding, ()):
        raise WavError(f"it has the encoding {encoding:#06x} with {bits} bits; convert it to 16-bit PCM")
    if not channels or not RATES[0] <= rate <= RATES[1]:
        raise WavError(f"its header says {channels} channels and {rate} samples per second")
    return encoding, channels, rate, bits


def _decode(content: bytes, header: WavHeader) -> np.ndarray:
    """float32 [samples of all channels]."""
    if header.encoding == FLOAT:
        with np.errstate(over="ignore"):  # becomes infinite, which `read_wav` refuses
            return np.frombuffer(content, f"<f{header.bits // 8}").astype(np.float32)
    if header.bits == 8:
        return (np.frombuffer(content, np.uint8).astype(np.float32) - 128) / 128
    if header.bits == 24:  # as the high bytes of 32 bits
        wide = np.zeros((len(content) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(content, np.uint8).reshape(-1, 3)
        return np.asarray(wide.view("<i4")[:, 0].astype(np.float32) / 2**31)
    whole = np.frombuffer(content, f"<i{header.bits // 8}").astype(np.float32)
    return np.asarray(whole / 2 ** (header.bits - 1))
