"""Texts that are put together from recordings of single words, to recognise all their words."""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from torch import Generator, Tensor

from modules.data.audio.log_mel import LogMel
from modules.data.audio.recording_set import Recording, RecordingSet
from modules.data.audio.speech_features import SpeechDistortion, SpeechFeatures
from modules.data.audio.spoken_words import read_sounds
from modules.data.base import END, IGNORED, PADDING, START, UNKNOWN, Batch, DataError, Pair, Tensors
from modules.data.sampling.by_length import order_by_length
from modules.data.sampling.example_random import ExampleRandom, example_seeds
from modules.data.tensors import check_at_least, check_split
from modules.data.text.pair_split import pad_texts, shift_right
from modules.data.text.sentence_words import SPECIAL

_SPLITS = ("train", "val", "test")
HUSH: Final = 1e-3
"""Amplitude of the noise between words: the softest that a recording of 16 bits in a quiet room has."""


class SpokenTexts:
    """Utterances of several words, each put together from recordings of one speaker with pauses between them.

    Which recordings an utterance has depends on its number only, so a test set is always the same; the pauses of a training
    utterance change in every epoch. Inputs are the log-mel features, float [batch, frames, bands], their numbers of
    frames, int64 [batch], and the target tokens shifted by one. See `modules.data.base.HasReferences`.
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
        speaker: str | None,
        num_words: Sequence[int],
        num_train_words: Sequence[int] | None,
        pause_s: Sequence[float],
        max_s: float,
        num_train: int,
        num_val: int,
        num_test: int,
        sample_rate: int,
        num_bands: int,
        mean: float,
        std: float,
        speed: float,
        gain_db: float,
        noise: float,
        mask_bands: int,
        mask_frames: int,
        vocab_size: int,
    ) -> None:
        """
        Args:
            root, folder, files, pattern, label, split_by, val_values, test_values, sample_rate: as for
                `modules.data.audio.recording_set.RecordingSet`.
            speaker: the field of ``pattern`` that all words of an utterance share; null: any recordings.
            num_words: [fewest, most] words of an utterance.
            num_train_words: the same of training utterances, which attention learns sooner from if some are short; null: as
                ``num_words``.
            pause_s: [shortest, longest] pause before, between and after words, in seconds.
            max_s: seconds; words of an utterance that would end later are left out, but for the first.
            num_train: utterances of an epoch.
            num_val: utterances of the validation split.
            num_test: utterances of the test split.
            num_bands: bands of the mel scale.
            mean: subtracted from the log-mel features.
            std: the divisor of these.
            speed, gain_db, noise, mask_bands, mask_frames: random changes in training, as for
                `modules.data.audio.speech_features.SpeechDistortion`.
            vocab_size: at least the number of different words and 4 special tokens.
        """
        self.set = RecordingSet(root, folder, files, pattern, label, split_by, val_values, test_values, sample_rate)
        if speaker is not None and speaker not in self.set.names:
            raise ValueError(
                f"data.speaker={speaker!r} is not a field of data.pattern={pattern!r}; name one of its fields "
                f"({', '.join(self.set.names)}), or set it to null"
            )
        train_words = num_words if num_train_words is None else num_train_words
        ranges = (("num_words", num_words, 1), ("num_train_words", train_words, 1), ("pause_s", pause_s, 0))
        for key, limits, least in ranges:
            if len(limits) != 2 or not least <= limits[0] <= limits[1]:
                raise ValueError(
                    f"data.{key}={[*limits]} is not a smallest and a largest number of at least {least}; write two numbers"
                )
        if not 0.1 <= max_s <= 600:
            raise ValueError(f"SpokenTexts wants max_s from 0.1 to 600, but got {max_s}")
        check_at_least("SpokenTexts", 1, num_train=num_train, num_val=num_val, num_test=num_test, num_bands=num_bands)
        check_at_least("SpokenTexts", len(SPECIAL) + 1, vocab_size=vocab_size)
        self.features = SpeechFeatures(LogMel(sample_rate, num_bands), mean, std)
        self.distortion = SpeechDistortion(speed, gain_db, noise, mask_bands, mask_frames)
        self.distortion.check("SpokenTexts")
        self.speaker, self.num_words, self.num_train_words = (
            speaker,
            (num_words[0], num_words[1]),
            (train_words[0], train_words[1]),
        )
        self.pause_s, self.max_s = (pause_s[0], pause_s[1]), max_s
        self.sizes = {"train": num_train, "val": num_val, "test": num_test}
        self.vocab_size = vocab_size
        self._splits = dict[str, TextSplit]()

    def load(self, split: str) -> TextSplit:
        check_split("SpokenTexts", split)
        if split not in self._splits:
            if (needed := len(self.tokens)) > self.vocab_size:
                raise DataError(
                    f"data.folder={self.set.folder!r}: the set has {needed - len(SPECIAL)} different values of {self.set.label}, "
                    f"but data.vocab_size={self.vocab_size}; each needs a token beside {len(SPECIAL)} special ones; set "
                    f"data.vocab_size={needed}"
                )
            self._splits[split] = TextSplit(self, split, self.set.find(split))
        return self._splits[split]

    def example(self, batch_size: int) -> Batch:
        """Return a batch of the longest utterances."""
        frames = self.features.log_mel.count_frames(round(self.max_s * self.set.sample_rate))
        features = torch.zeros(batch_size, frames, self.features.log_mel.num_bands)
        target = torch.full((batch_size, self.num_train_words[1] + 1), END)
        inputs = features, torch.full((batch_size,), frames), shift_right(target)
        return inputs, (target, torch.zeros(batch_size, dtype=torch.int64))

    def pair(self, number: int) -> Pair:
        index, place = divmod(number, len(_SPLITS))
        recordings = self.load(_SPLITS[place]).utterances[index]
        text = " ".join(each.fields[self.set.label] for each in recordings)
        return Pair(_SPLITS[place], index, " + ".join(each.name for each in recordings), (text,))

    def target_text(self, words: Tensor) -> str:
        numbers = words.tolist()
        known = numbers[: numbers.index(END)] if END in numbers else numbers
        return " ".join(self.tokens[number] if number < len(self.tokens) else SPECIAL[UNKNOWN] for number in known)

    @cached_property
    def tokens(self) -> list[str]:
        """The word of every token; reads the files at the first use.

        Raises:
            DataError: as `load`.
        """
        return [*SPECIAL.values(), *self.set.labels]

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Read WAV files of a user: features, numbers of frames, and `START`, int64 [files, 1].

        Raises:
            UserInputError: a file cannot be read.
        """
        features, lengths = self.features(read_sounds(inputs, self.set.sample_rate))
        return features, lengths, torch.full((len(inputs), 1), START)

    def save_reader(self) -> Any:
        return self.tokens

    def restore_reader(self, saved: Any) -> None:
        self.tokens = [*saved]


class TextSplit:
    """The utterances of a split."""

    in_memory = False

    def __init__(self, data: SpokenTexts, split: str, recordings: Sequence[Recording]) -> None:
        self.data, self.is_training = data, split == "train"
        size = data.sizes[split]
        self.seeds = example_seeds(zlib.crc32(split.encode()), 0, size)
        self.limits = data.num_train_words if self.is_training else data.num_words
        self.utterances = _compose(data, recordings, self.limits, ExampleRandom(self.seeds))
        numbers = {word: number for number, word in enumerate(data.tokens)}
        self.targets = pad_texts([[numbers[each.fields[data.set.label]] for each in own] for own in self.utterances])
        self.num_samples = torch.tensor([sum(each.num_samples for each in own) for own in self.utterances])
        self.numbers = torch.arange(size) * len(_SPLITS) + _SPLITS.index(split)

    def __len__(self) -> int:
        return len(self.utterances)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        data = self.data
        random = ExampleRandom(seeds if self.is_training else self.seeds[indices])
        sounds = _join(data, [self.utterances[index] for index in indices.tolist()], random)
        if self.is_training:
            sounds = data.distortion.change_sounds(sounds, random)
        features, lengths = data.features(sounds)
        if self.is_training:
            features = data.distortion.mask(features, lengths, random)
        target = self.targets[indices].long()
        target = target[:, : int((target != PADDING).sum(1).max())]
        targets = target.masked_fill(target == PADDING, IGNORED), self.numbers[indices]
        return (features, lengths, shift_right(target)), targets

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        """As `Ordered`: by the samples of the recordings."""
        return order_by_length(self.num_samples, batch_size, generator)


def _compose(
    data: SpokenTexts, recordings: Sequence[Recording], limits: tuple[int, int], random: ExampleRandom
) -> list[list[Recording]]:
    """Draw the recordings of each utterance."""
    groups: dict[str, list[Recording]] = defaultdict(list)
    for recording in recordings:
        groups[recording.fields[data.speaker] if data.speaker else ""].append(recording)
    fewest, most = limits
    counts = fewest + random.integers(most - fewest + 1)
    firsts, places = random.integers(len(recordings)), random.uniform(most)
    longest, utterances = data.max_s * data.set.sample_rate, list[list[Recording]]()
    for count, first, row in zip(counts.tolist(), firsts.tolist(), places.tolist(), strict=True):
        own = groups[recordings[first].fields[data.speaker] if data.speaker else ""]
        drawn = [own[int(place * len(own))] for place in row[:count]]
        ends = np.cumsum([each.num_samples + data.pause_s[1] * data.set.sample_rate for each in drawn])
        utterances.append(drawn[: max(1, int((ends <= longest).sum()))])
    return utterances


def _join(data: SpokenTexts, utterances: Sequence[Sequence[Recording]], random: ExampleRandom) -> list[np.ndarray]:
    """Join the recordings of each utterance, with soft noise in the pauses."""
    shortest, longest = (seconds * data.set.sample_rate for seconds in data.pause_s)
    most = max(map(len, utterances))
    pauses = (shortest + random.uniform(most + 1) * (longest - shortest)).long()
    sounds = []
    for row, (recordings, own) in enumerate(zip(utterances, pauses.tolist(), strict=True)):
        generator = random.generator(row)
        parts = [HUSH * torch.randn(own[0], generator=generator).numpy()]
        for recording, pause in zip(recordings, own[1:], strict=False):
            parts += [data.set.read(recording), HUSH * torch.randn(pause, generator=generator).numpy()]
        sounds.append(np.concatenate(parts).astype(np.float32))
    return sounds
