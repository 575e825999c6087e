"""Recordings whose file names say what they are, as WAV files or in NumPy archives."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from modules.data.audio.wav import LOUDEST, RATES, WavError, read_header, read_wav, resample
from modules.data.base import DataError
from modules.data.files import DataFiles
from modules.data.own.skipping import warn
from modules.data.tensors import check_numbers

FIELD: Final = re.compile(r"\{(\w+)\}")
MOST_NAMED: Final = 12
"""Values or files that a message names."""


@dataclass(frozen=True)
class Recording:
    """One recording; `RecordingSet.read` returns its samples."""

    name: str
    """Of its file, below the folder of the set."""
    fields: Mapping[str, str]
    """What the name says, such as ``{"word": "yes", "speaker": "anna", "take": "3"}``."""
    sound: np.ndarray | Path
    """Samples at the rate of the set, float32 [samples]; or a WAV file."""
    num_samples: int
    """At the rate of the set; of a WAV file, about."""


class RecordingSet:
    """Recordings that are divided into splits by one field of their names, such as the take or the speaker.

    An archive has ``pcm``, the samples of all recordings one after the other; ``offsets``, their starts and the end of the
    last one; ``rate``, samples per second; and an array for each field of ``pattern``.
    """

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None] | None,
        pattern: str,
        label: str,
        split_by: str,
        val_values: Sequence[str | int],
        test_values: Sequence[str | int],
        sample_rate: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of NumPy archives; null: the WAV files of the folder and its subfolders.
            pattern: of the file names, with fields in braces: "{word}_{speaker}_{take}.wav", or "{word}/{speaker}_{take}.wav".
                If a name fits in several ways, the first field is as long as possible.
            label: the field with what is said.
            split_by: the field whose values divide the set.
            val_values: recordings with these values validate.
            test_values: recordings with these values test; all others train.
            sample_rate: samples per second; recordings of other rates are resampled.
        """
        self.names = FIELD.findall(pattern)
        for key, name in (("label", label), ("split_by", split_by)):
            if name not in self.names:
                raise ValueError(
                    f"data.{key}={name!r} is not a field of data.pattern={pattern!r}; name one of its fields "
                    f"({', '.join(self.names) or 'it has none'}), or write {{{name}}} into the pattern"
                )
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"data.pattern={pattern!r} has a field twice; give each field its own name")
        values = {"val": {str(each) for each in val_values}, "test": {str(each) for each in test_values}}
        if not values["val"] or not values["test"] or values["val"] & values["test"]:
            raise ValueError(
                f"data.val_values={[*val_values]} and data.test_values={[*test_values]} must be different values of "
                f"{split_by}, at least one of each; correct them"
            )
        if not RATES[0] <= sample_rate <= RATES[1]:
            raise ValueError(
                f"data.sample_rate={sample_rate} is not from {RATES[0]} to {RATES[1]}; write 8000 or 16000"
            )
        self.path, self.folder = Path(root).expanduser().absolute() / folder, folder
        self.files = None if files is None else DataFiles(root, folder, files)
        self.pattern, self.label, self.split_by, self.sample_rate = pattern, label, split_by, sample_rate
        self._values = values

    @cached_property
    def labels(self) -> list[str]:
        """All labels of the set: numbers in their order, then texts in alphabetical order.

        Raises:
            DataError: files are missing or damaged.
        """
        found = {each.fields[self.label] for each in self._all}
        return sorted(found, key=lambda label: (not label.isdigit(), int(label) if label.isdigit() else 0, label))

    def find(self, split: str) -> list[Recording]:
        """Return the recordings of "train", "val" or "test", in the order of their names or of the archives.

        Raises:
            DataError: files are missing or damaged, or the split has no recording.
        """
        found = [each for each in self._all if self._find_split(each) == split]
        if not found:
            values = sorted({each.fields[self.split_by] for each in self._all}, key=lambda value: (len(value), value))
            rule = (
                f"no recording is left to train on: data.val_values and data.test_values name every {self.split_by}"
                if split == "train"
                else f"no recording has one of data.{split}_values={sorted(self._values[split])} as its {self.split_by}"
            )
            raise DataError(
                f"data.folder={self.folder!r}: {rule}; the set has {_name_some(values)}: choose among them, or divide the set by "
                "another field with data.split_by"
            )
        return found

    def read(self, recording: Recording) -> np.ndarray:
        """Return the samples of a recording, float32 [samples].

        Raises:
            DataError: its file cannot be read.
        """
        if isinstance(recording.sound, np.ndarray):
            return recording.sound
        try:
            return read_wav(recording.sound, self.sample_rate)
        except WavError as err:
            raise self._unreadable(recording.sound, err) from err

    def _find_split(self, recording: Recording) -> str:
        value = recording.fields[self.split_by]
        return next((split for split, values in self._values.items() if value in values), "train")

    @cached_property
    def _all(self) -> list[Recording]:
        if self.files is None:
            return self._find_wav_files()
        return [recording for name in sorted(self.files.files) for recording in self._read_archive(self.files, name)]

    def _find_wav_files(self) -> list[Recording]:
        if not self.path.is_dir():
            raise DataError(
                f"data.folder={self.folder!r}: {self.path} is no folder; the set needs a folder of WAV files named like "
                f"{self.pattern!r}; set data.folder, or LATHE_DATA to the folder that holds it"
            )
        names = sorted(
            os.path.relpath(os.path.join(folder, name), self.path).replace(os.sep, "/")
            for folder, _, files in os.walk(self.path)
            for name in files
        )
        matches = {name: match for name in names if (match := self._regex.fullmatch(name))}
        others = [name for name in names if name not in matches]
        if not matches:
            raise DataError(
                f"data.folder={self.folder!r}: none of the {len(names)} files of {self.path} is named like {self.pattern!r}"
                f"{f' (there are {_name_some(others)})' if others else ''}; correct data.pattern, or set data.files for archives"
            )
        if others:
            warn(
                f"data.folder={self.folder!r}: {len(others)} files of {self.path} are not named like {self.pattern!r} and are "
                f"left out: {_name_some(others)}"
            )
        return [
            Recording(name, match.groupdict(), self.path / name, self._count_samples(self.path / name))
            for name, match in matches.items()
        ]

    def _count_samples(self, path: Path) -> int:
        try:
            return round(read_header(path).duration_s * self.sample_rate)
        except WavError as err:
            raise self._unreadable(path, err) from err

    def _read_archive(self, files: DataFiles, name: str) -> list[Recording]:
        members = files.read_npz(name)
        with files.decoding(name):
            offsets, rate = members["offsets"].astype(np.int64), int(members["rate"])
            if not RATES[0] <= rate <= RATES[1]:
                raise ValueError(f"its rate is {rate}, but must be from {RATES[0]} to {RATES[1]}")
            columns = {field: members[field].astype(str).tolist() for field in self.names}
            samples = _scale(members["pcm"])
            if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] < 0 or offsets[-1] > len(samples):
                raise ValueError(f"its offsets do not fit its {len(samples):,} samples")
            if (empty := np.flatnonzero(np.diff(offsets) < 1)).size:
                raise ValueError(f"its recording {empty[0]} has no samples")
            if any(members[field].shape != (len(offsets) - 1,) for field in columns):
                raise ValueError(f"it has {len(offsets) - 1} recordings, but another number of {', '.join(columns)}")
            own = [samples[start:end] for start, end in pairwise(offsets.tolist())]
            sounds = [resample(each, rate, self.sample_rate).astype(np.float32) for each in own]
            rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
            return [
                Recording(self.pattern.format(**row), row, sound, len(sound))
                for row, sound in zip(rows, sounds, strict=True)
            ]

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        parts = FIELD.split(self.pattern)  # text and fields in turn
        texts = [re.escape(part) if place % 2 == 0 else f"(?P<{part}>[^/]+)" for place, part in enumerate(parts)]
        return re.compile("".join(texts))

    def _unreadable(self, path: Path, err: WavError) -> DataError:
        return DataError(
            f"data.folder={self.folder!r}: {path} cannot be read as a recording ({err}); replace or remove it"
        )


def _scale(pcm: np.ndarray) -> np.ndarray:
    """Samples as float32 in [-1, 1], from signed whole numbers or floats."""
    if pcm.ndim != 1 or pcm.dtype.kind not in "if":
        raise ValueError(f"its pcm is {pcm.dtype} with {pcm.ndim} dimensions, but must be signed numbers with 1")
    check_numbers("samples", pcm)
    scaled = (pcm / (np.iinfo(pcm.dtype).max + 1.0) if pcm.dtype.kind == "i" else pcm).astype(np.float32)
    if not (np.abs(scaled) <= LOUDEST).all():
        raise ValueError(f"it has samples that are not from -{LOUDEST:g} to {LOUDEST:g}")
    return scaled


def _name_some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return f"{', '.join(names[:MOST_NAMED])}{more}"
