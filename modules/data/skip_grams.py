"""Running text as skip-grams: every word with the words around it, and words of noise to tell them from."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import torch
from torch import Generator, Tensor

from modules.data.base import Batch, DataError, Tensors, UserInputError
from modules.data.files import DataFiles
from modules.data.tensors import check_at_least, check_split
from modules.data.text.vocabulary import Vocabulary, find_words

_PERCENT = {"train": (0, 98), "val": (98, 99), "test": (99, 100)}


class SkipGramSplit:
    """Stretches of a text, side by side; what a batch gives of them follows from its chance alone.

    A stretch stands by itself: words at its ends have fewer words around them, 2 in 100 pairs at 96 words and a window of 5.
    """

    in_memory = True

    def __init__(self, tokens: Tensor, vocabulary: Vocabulary, settings: SkipGrams, is_training: bool) -> None:
        """
        Args:
            tokens: int32 [tokens], the text without its rare words.
            vocabulary: how often each is in the training part.
            settings: how it is cut and thinned out.
            is_training: cut elsewhere every time and by the batch's chance; else the same pairs at every evaluation.
        """
        self.tokens, self.settings, self.is_training = tokens, settings, is_training
        self.context_tokens = settings.context_tokens
        share = vocabulary.counts.double() / vocabulary.counts.sum()
        self.keep_probs = _keep_probs(share, settings.subsample_threshold)
        noise = share**settings.negative_power
        self.log_noise = (noise / noise.sum()).log().float()
        self.noise_up_to = (noise / noise.sum()).cumsum(0).float()

    def __len__(self) -> int:
        return len(self.tokens) // self.context_tokens

    def batch(self, indices: Tensor, generator: Generator) -> Batch:
        """Frequent words are left out by chance, and what is left moves together; the window of every word is drawn.

        Returns:
            Inputs: words int64 [batch, time] and noise int64 [batch, num_negatives]; time is that of the longest stretch of
            the batch, and the others end in words 0 that are no pair's. Targets: bool [batch, time, 2 * window + 1], True
            where the word at that distance, ``-window .. window``, is one around it; and the log-probability of the words
            and of the noise as noise, float as the inputs.
        """
        words, reach, noise, lengths = self._drawn(indices, generator)
        window, time = self.settings.window, words.shape[1]
        distance = torch.arange(-window, window + 1)
        place = torch.arange(time)[:, None] + distance
        pairs = (distance.abs() <= reach[:, :, None]) & (place >= 0) & (place < lengths[:, None, None])
        pairs[:, :, window] = False
        return (words, noise), (pairs, self.log_noise[words], self.log_noise[noise])

    def _drawn(self, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Words, how far each sees, noise, and the words of every stretch."""
        if not self.is_training:  # the chance of each stretch is its own, whatever stands beside it
            drawn = [self._draw(index[None], _chance_of(int(index))) for index in indices]
            time = max(words.shape[1] for words, *_ in drawn)
            padded = [(_to_length(words, time), _to_length(reach, time), *rest) for words, reach, *rest in drawn]
            return tuple(torch.cat(part) for part in zip(*padded, strict=True))  # type: ignore[return-value]
        return self._draw(indices, generator)

    def _draw(self, indices: Tensor, generator: Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        settings, starts = self.settings, indices * self.context_tokens
        every = self.tokens.unfold(0, self.context_tokens, 1)  # a view: a stretch from every word on
        if self.is_training:
            starts = starts + torch.randint(self.context_tokens, (len(indices),), generator=generator)
        stretches = every.index_select(0, starts.clamp_max(len(every) - 1)).long()
        kept = torch.rand(stretches.shape, generator=generator) < self.keep_probs[stretches]
        lengths = kept.sum(1)
        valid = torch.arange(max(1, int(lengths.max()))) < lengths[:, None]
        words = torch.zeros(valid.shape, dtype=torch.int64)
        words[valid] = stretches[kept]
        reach = torch.randint(1, settings.window + 1, words.shape, generator=generator) * valid
        chance = torch.rand(len(indices), settings.num_negatives, generator=generator)
        noise = torch.searchsorted(self.noise_up_to, chance).clamp_max(len(self.noise_up_to) - 1)
        return words, reach, noise, lengths


class SkipGrams:
    """Text to learn vectors of words from. Source: Mikolov et al. 2013, arXiv:1310.4546.

    Every file is cut into its first 98 % to train, 1 % to validate and 1 % to test. An example is a stretch of words with
    all their pairs, which share their words of noise (as in Ji et al. 2016, arXiv:1604.04661): the same pairs, and in the
    mean the same noise, as with pairs one by one, but products of matrices where those are sums over rows.
    """

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
            folder: that of this set.
            files: name to sha256, text in UTF-8; unpacked where a name ends in ``.gz``.
            vocab_size: most words that get a vector; numbers beyond those there are are never used.
            min_count: rarer words are left out of the text.
            context_tokens: words of a stretch, before frequent ones are left out.
            window: farthest word that is around another; each word draws its own distance up to it.
            subsample_threshold: words that are a larger share of the text than this are left out by chance, the more the more
                frequent; null leaves none out.
            negative_power: noise is drawn by the words' frequencies to this power.
            num_negatives: words of noise that a stretch shares.
            num_train: stretches to train on, the first; null takes all.
        """
        check_at_least(
            "data", 1, vocab_size=vocab_size, min_count=min_count, window=window, num_negatives=num_negatives
        )
        check_at_least("data", 2, context_tokens=context_tokens)
        if subsample_threshold is not None and subsample_threshold <= 0:
            raise ValueError(
                f"data.subsample_threshold={subsample_threshold} would leave no word; give 0.001, or null for all"
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
        found = len(tokens) // self.context_tokens
        wanted = self.num_train if split == "train" and self.num_train is not None else found
        if found < 1 or wanted > found:
            raise DataError(
                f"data.folder={self.files.folder!r}: the split '{split}' has {len(tokens)} words that are frequent enough, "
                f"{found} stretches of data.context_tokens={self.context_tokens}, and wants {max(1, wanted)}; "
                "set data.num_train=null, lower context_tokens or bring more text"
            )
        tokens = tokens if wanted == found else tokens[: wanted * self.context_tokens]
        return SkipGramSplit(tokens, self.vocabulary, self, is_training=split == "train")

    def read(self, inputs: Sequence[str]) -> Tensors:
        """Numbers of words int64 [batch, time], 0 beyond the end of a line that is shorter than others; and no noise."""
        numbers = self.vocabulary.numbers
        lines = [find_words(line) for line in inputs]
        for line, words in zip(inputs, lines, strict=True):
            unknown = ", ".join(repr(word) for word in dict.fromkeys(words) if word not in numbers)
            if unknown:
                told = f"{unknown} is not among the {len(numbers):,} words of the vocabulary"
                raise UserInputError(f"{line!r}: {told}; write words that the training text has often enough")
            if not words:
                raise UserInputError(f"{line!r} has no word; write one")
        tokens = [torch.tensor([numbers[word] for word in words]) for words in lines]
        padded = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)
        return padded, torch.zeros(len(padded), self.num_negatives, dtype=torch.int64)

    def example(self, batch_size: int) -> Batch:
        width = 2 * self.window + 1
        words = torch.zeros(batch_size, self.context_tokens, dtype=torch.int64)
        noise = torch.zeros(batch_size, self.num_negatives, dtype=torch.int64)
        pairs = torch.zeros(batch_size, self.context_tokens, width, dtype=torch.bool)
        return (words, noise), (pairs, torch.zeros(words.shape), torch.zeros(noise.shape))

    @property
    def words(self) -> list[str]:
        """The word of every number that is used, the most frequent first; reads the files at the first use."""
        return list(self.vocabulary.words)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Of the training part.

        Raises:
            DataError: as `load`, or no word is frequent enough.
        """
        vocabulary = Vocabulary((_part(text, "train") for text in self._texts), self.vocab_size, self.min_count)
        if not vocabulary.words:
            raise DataError(
                f"data.min_count={self.min_count}: no word of data.folder={self.files.folder!r} is that frequent; lower it"
            )
        return vocabulary

    @cached_property
    def _texts(self) -> list[str]:
        texts = []
        for name in self.files.files:
            content = self.files.read(name)
            with self.files.decoding(name):
                texts.append((gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8"))
        return texts


def _part(text: str, split: str) -> str:
    first, last = (len(text) * percent // 100 for percent in _PERCENT[split])
    return text[first:last]


def _keep_probs(share: Tensor, subsample_threshold: float | None) -> Tensor:
    """How likely each word stays, float32 [words]; by word2vec's code, which is milder than the paper's formula."""
    if subsample_threshold is None:
        return torch.ones(len(share))
    ratio = subsample_threshold / share
    return (ratio.sqrt() + ratio).clamp_max(1.0).float()


def _chance_of(index: int) -> Generator:
    return Generator().manual_seed(index)


def _to_length(tensor: Tensor, time: int) -> Tensor:
    return torch.nn.functional.pad(tensor, (0, time - tensor.shape[1]))
