"""Text as skip-grams: pairs of a word and a word near it, with negative samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import torch
from torch import Tensor

from modules.data.base import Batch, DataError, Tensors, UserInputError
from modules.data.files import DataFiles
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_split
from modules.data.text.vocabulary import Vocabulary, find_words

_PERCENT = {"train": (0, 98), "val": (98, 99), "test": (99, 100)}


class SkipGramSplit:
    """Consecutive segments of a text. Pairs do not cross segments, which loses 2 in 100 pairs at 96 words and a window of 5."""

    in_memory = True

    def __init__(self, tokens: Tensor, vocabulary: Vocabulary, settings: SkipGrams, is_training: bool) -> None:
        """
        Args:
            tokens: int32 [tokens], without rare words.
            vocabulary: of the training part.
            settings: of segments, subsampling and negative samples.
            is_training: draw the start of each segment and its pairs anew; otherwise all evaluations get the same pairs.
        """
        self.tokens, self.settings, self.is_training = tokens, settings, is_training
        self.context_tokens = settings.context_tokens
        frequencies = vocabulary.counts.double() / vocabulary.counts.sum()
        self.keep_probs = _keep_probs(frequencies, settings.subsample_threshold)
        weights = frequencies**settings.negative_power
        noise_probs = weights / weights.sum()
        self.noise_log_probs = noise_probs.log().float()
        self.noise_cumulative = noise_probs.cumsum(0).float()

    def __len__(self) -> int:
        return len(self.tokens) // self.context_tokens

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        """Subsample frequent words, then draw a window for each word.

        Returns:
            Inputs: words int64 [batch, time] and negatives int64 [batch, num_negatives]. Time is the length of the longest
            segment; shorter segments are padded with 0. Targets: bool [batch, time, 2 * window + 1], True where the word at
            the distance ``-window .. window`` makes a pair; then the log-probabilities of the words and of the negatives in
            the noise distribution, float [batch, time] and [batch, num_negatives].
        """
        words, windows, negatives, lengths = self._draw(indices, ExampleRandom(seeds if self.is_training else indices))
        window, time = self.settings.window, words.shape[1]
        distance = torch.arange(-window, window + 1)
        position = torch.arange(time)[:, None] + distance
        pairs = (distance.abs() <= windows[:, :, None]) & (position >= 0) & (position < lengths[:, None, None])
        pairs[:, :, window] = False
        return (words, negatives), (pairs, self.noise_log_probs[words], self.noise_log_probs[negatives])

    def _draw(self, indices: Tensor, random: ExampleRandom) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the words, the window of each word, the negatives, and the length of each segment."""
        settings, starts = self.settings, indices * self.context_tokens
        all_segments = self.tokens.unfold(0, self.context_tokens, 1)  # a view: a segment that starts at every word
        if self.is_training:
            starts = starts + random.integers(self.context_tokens)
        segments = all_segments.index_select(0, starts.clamp_max(len(all_segments) - 1)).long()
        is_kept = random.uniform(self.context_tokens) < self.keep_probs[segments]
        lengths = is_kept.sum(1)
        valid = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
        words = torch.zeros(valid.shape, dtype=torch.int64)
        words[valid] = segments[is_kept]
        windows = (1 + random.integers(settings.window, words.shape[1])) * valid
        uniform = random.uniform(settings.num_negatives)
        negatives = torch.searchsorted(self.noise_cumulative, uniform).clamp_max(len(self.noise_cumulative) - 1)
        return words, windows, negatives, lengths


class SkipGrams:
    """Text to train word vectors on. Source: Mikolov et al. 2013, arXiv:1310.4546.

    The first 98 % of every file are for training, the next 1 % for validation and the last 1 % for testing. An example is a
    segment of words with all its pairs, which share their negative samples (as in Ji et al. 2016, arXiv:1604.04661). The
    pairs are those of word2vec, but shared negatives allow products of matrices instead of sums over rows.
    """

    is_component = True

    takes: Final = "text"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        vocab_size: int,
        min_count: int,
        context_tokens: int,
        window: int,
        subsample_threshold: float | None,
        negative_power: float,
        num_negatives: int,
        num_train: int | None,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: the folder of this data set below root.
            files: name to sha256, text in UTF-8; names that end in ``.gz`` are unpacked.
            vocab_size: maximum number of words with a vector; a smaller vocabulary leaves the last ones unused.
            min_count: rarer words are removed from the text.
            context_tokens: words of a segment, before subsampling.
            window: maximum distance of the two words of a pair; each word draws its own maximum up to it.
            subsample_threshold: words with a higher relative frequency are dropped at random, the more frequent the more
                often; null drops none.
            negative_power: negatives are drawn with the frequencies of the words to this power.
            num_negatives: negative samples of a segment.
            num_train: use the first segments only; null uses all.
        """
        check_at_least(
            "data", 1, vocab_size=vocab_size, min_count=min_count, window=window, num_negatives=num_negatives
        )
        check_at_least("data", 2, context_tokens=context_tokens)
        if subsample_threshold is not None and subsample_threshold <= 0:
            raise ValueError(
                f"data.subsample_threshold={subsample_threshold} is not above 0; set 0.001, or null to keep all words"
            )
        self.files = DataFiles(root, folder, files)
        self.vocab_size, self.min_count = vocab_size, min_count
        self.context_tokens, self.window = context_tokens, window
        self.subsample_threshold, self.negative_power, self.num_negatives = (
            subsample_threshold,
            negative_power,
            num_negatives,
        )
        self.num_train = num_train

    def load(self, split: str) -> SkipGramSplit:
        check_split("SkipGrams", split)
        tokens = torch.cat([self.vocabulary.encode(_part(text, split)) for text in self._texts])
        available = len(tokens) // self.context_tokens
        wanted = self.num_train if split == "train" and self.num_train is not None else available
        if available < 1 or wanted > available:
            raise DataError(
                f"data.folder={self.files.folder!r}: the split '{split}' has {len(tokens)} words that are frequent enough, "
                f"{available} segments of data.context_tokens={self.context_tokens}, but needs {max(1, wanted)}; "
                "set data.num_train=null, lower data.context_tokens or use more text"
            )
        tokens = tokens if wanted == available else tokens[: wanted * self.context_tokens]
        return SkipGramSplit(tokens, self.vocabulary, self, is_training=split == "train")

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Return token ids int64 [batch, time], shorter lines padded with 0, and placeholders for the negatives."""
        numbers = self.vocabulary.numbers
        lines = [find_words(line) for line in inputs]
        for line, words in zip(inputs, lines, strict=True):
            unknown = ", ".join(repr(word) for word in dict.fromkeys(words) if word not in numbers)
            if unknown:
                raise UserInputError(
                    f"{line!r}: {unknown} is not among the {len(numbers):,} words of the vocabulary; "
                    "write words that are frequent in the training text"
                )
            if not words:
                raise UserInputError(f"{line!r} has no word; write one")
        tokens = [torch.tensor([numbers[word] for word in words]) for words in lines]
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return padded, torch.zeros(len(padded), self.num_negatives, dtype=torch.int64)

    def example(self, batch_size: int) -> Batch:
        width = 2 * self.window + 1
        words = torch.zeros(batch_size, self.context_tokens, dtype=torch.int64)
        negatives = torch.zeros(batch_size, self.num_negatives, dtype=torch.int64)
        pairs = torch.zeros(batch_size, self.context_tokens, width, dtype=torch.bool)
        return (words, negatives), (pairs, torch.zeros(words.shape), torch.zeros(negatives.shape))

    @property
    def words(self) -> list[str]:
        """The words by token id, the most frequent first; the first use reads the files."""
        return list(self.vocabulary.words)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the training part.

        Raises:
            DataError: a file is missing or damaged, or no word is frequent enough.
        """
        vocabulary = Vocabulary((_part(text, "train") for text in self._texts), self.vocab_size, self.min_count)
        if not vocabulary.words:
            raise DataError(
                f"data.min_count={self.min_count}: no word of data.folder={self.files.folder!r} is that frequent; lower it"
            )
        return vocabulary

    def save_reader(self) -> Any:
        return {"words": list(self.vocabulary.words), "counts": self.vocabulary.counts.tolist()}

    def restore_reader(self, saved: Any) -> None:
        self.vocabulary = Vocabulary.restore(saved["words"], saved["counts"])

    @cached_property
    def _texts(self) -> list[str]:
        return [self.files.read_text(name) for name in self.files.files]


def _part(text: str, split: str) -> str:
    first, last = (len(text) * percent // 100 for percent in _PERCENT[split])
    return text[first:last]


def _keep_probs(frequencies: Tensor, subsample_threshold: float | None) -> Tensor:
    """Probability to keep each word, float32 [words]. As in the code of word2vec, which drops fewer words than the paper."""
    if subsample_threshold is None:
        return torch.ones(len(frequencies))
    ratio = subsample_threshold / frequencies
    return (ratio.sqrt() + ratio).clamp_max(1.0).float()
