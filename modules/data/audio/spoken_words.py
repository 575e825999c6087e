"""Recordings of single words, to classify them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from modules.data.audio.log_mel import LogMel
from modules.data.audio.recording_set import Recording, RecordingSet
from modules.data.audio.speech_features import SpeechDistortion, SpeechFeatures
from modules.data.audio.wav import WavError, read_wav
from modules.data.base import Batch, DataError, UserInputError
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_split


class SpokenWords:
    """Recordings of one word each; the target is the word.

    The input is an image with one channel, bands by frames: the log-mel features of the recording in the middle of a clip, or in
    training at a random place, with zeros around them. A recording that is longer than the clip is cut.
    """

    is_component = True

    takes: Final = "audio"

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
        num_bands: int,
        mean: float,
        std: float,
        clip_s: float,
        speed: float,
        gain_db: float,
        noise: float,
        mask_bands: int,
        mask_frames: int,
        image_shape: Sequence[int],
        num_features: int,
        num_classes: int,
    ) -> None:
        """
        Args:
            root, folder, files, pattern, label, split_by, val_values, test_values, sample_rate: as for
                `modules.data.audio.recording_set.RecordingSet`.
            num_bands: bands of the mel scale.
            mean: subtracted from the log-mel features.
            std: the divisor of these.
            clip_s: seconds that the model gets.
            speed, gain_db, noise, mask_bands, mask_frames: random changes in training, as for
                `modules.data.audio.speech_features.SpeechDistortion`.
            image_shape: [1, num_bands, frames], a frame for each 10 ms of the clip and one more.
            num_features: product of ``image_shape``.
            num_classes: at least the number of different words.
        """
        self.set = RecordingSet(root, folder, files, pattern, label, split_by, val_values, test_values, sample_rate)
        if not 0.025 <= clip_s <= 600:
            raise ValueError(f"SpokenWords wants clip_s from 0.025 to 600, but got {clip_s}")
        check_at_least("SpokenWords", 1, num_bands=num_bands, num_classes=num_classes)
        self.features = SpeechFeatures(LogMel(sample_rate, num_bands), mean, std)
        self.num_frames = self.features.log_mel.count_frames(round(clip_s * sample_rate))
        wanted = [1, num_bands, self.num_frames]
        if list(image_shape) != wanted or num_features != num_bands * self.num_frames:
            raise ValueError(
                f"data.clip_s={clip_s} and data.num_bands={num_bands} make data.image_shape={wanted} and "
                f"data.num_features={num_bands * self.num_frames}, but got {list(image_shape)} and {num_features}; set these"
            )
        self.distortion = SpeechDistortion(speed, gain_db, noise, mask_bands, mask_frames)
        self.distortion.check("SpokenWords")
        self.image_shape, self.num_classes = tuple(image_shape), num_classes

    def load(self, split: str) -> WordSplit:
        check_split("SpokenWords", split)
        labels = self.set.labels
        if len(labels) > self.num_classes:
            raise DataError(
                f"data.folder={self.set.folder!r}: the set has {len(labels)} different values of {self.set.label}, but "
                f"data.num_classes={self.num_classes}; every word needs a class; set data.num_classes={len(labels)}"
            )
        self.class_names = labels
        return WordSplit(self, self.set.find(split), split == "train")

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read WAV files of a user.

        Raises:
            UserInputError: a file cannot be read.
        """
        return self.place(*self.features(read_sounds(inputs, self.set.sample_rate)), None)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)

    def place(self, features: Tensor, lengths: Tensor, random: ExampleRandom | None) -> Tensor:
        """Put features into clips.

        Args:
            features: float [recordings, frames, bands].
            lengths: their frames, int64 [recordings].
            random: of the places; None: the middle.

        Returns:
            float [recordings, 1, bands, frames of a clip].
        """
        clips = torch.zeros(len(features), self.num_frames, features.shape[2])
        places = torch.full((len(features),), 0.5) if random is None else random.uniform()
        for clip, own, length, place in zip(clips, features, lengths.tolist(), places.tolist(), strict=True):
            spare = self.num_frames - length
            start = int(place * (abs(spare) + 1))
            if spare < 0:
                clip[:] = own[start : start + self.num_frames]
            else:
                clip[start : start + length] = own[:length]
        return clips.transpose(1, 2)[:, None]


class WordSplit:
    """The recordings of a split."""

    in_memory = False

    def __init__(self, data: SpokenWords, recordings: Sequence[Recording], is_training: bool) -> None:
        self.data, self.recordings, self.is_training = data, recordings, is_training
        numbers = {label: number for number, label in enumerate(data.class_names)}
        self.targets = torch.tensor([numbers[each.fields[data.set.label]] for each in recordings])

    def __len__(self) -> int:
        return len(self.recordings)

    def file_sizes(self) -> np.ndarray:
        """Samples of every recording, int64 [examples]."""
        return np.array([each.num_samples for each in self.recordings])

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        data = self.data
        sounds = [data.set.read(self.recordings[index]) for index in indices.tolist()]
        random = ExampleRandom(seeds) if self.is_training else None
        if random:
            sounds = data.distortion.change_sounds(sounds, random)
        features, lengths = data.features(sounds)
        if random:
            features = data.distortion.mask(features, lengths, random)
        return data.place(features, lengths, random), self.targets[indices]


def read_sounds(paths: Sequence[str], sample_rate: int) -> list[np.ndarray]:
    """Read WAV files of a user, float32 [samples] each.

    Raises:
        UserInputError: a file cannot be read.
    """
    sounds = []
    for path in paths:
        try:
            sounds.append(read_wav(Path(path), sample_rate))
        except WavError as err:
            raise UserInputError(
                f"{path} cannot be read as a recording ({err}); convert it to a WAV file, or leave it out"
            ) from err
    return sounds
