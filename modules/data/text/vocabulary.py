"""The words of a text as numbers, the most frequent first."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_WORD = re.compile(r"[^\W\d_]+")
_BLOCK = 1 << 20  # characters; a text of gigabytes never lies in memory as a list of words


class Vocabulary:
    """Numbers the words that a text has often enough; rare ones have no number, and are left out of what is encoded.

    A word is a run of letters of any alphabet, in small letters, as in Mahoney's text8.
    """

    def __init__(self, texts: Iterable[str], vocab_size: int, min_count: int) -> None:
        """
        Args:
            texts: what is counted.
            vocab_size: most words; those of one count by the alphabet.
            min_count: how often a word must stand in the texts.
        """
        counts = Counter[str]()
        for text in texts:
            for words in _words(text):
                counts.update(words)
        known = sorted(counts, key=lambda word: (-counts[word], word))[:vocab_size]
        self.words: Sequence[str] = [word for word in known if counts[word] >= min_count]
        self.counts = torch.tensor([counts[word] for word in self.words], dtype=torch.int64)
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def encode(self, text: str) -> Tensor:
        """int32 [words that have a number]."""
        blocks = [np.empty(0, np.int32)]
        for words in _words(text):
            numbers = np.fromiter((self.numbers.get(word, -1) for word in words), np.int32, len(words))
            blocks.append(numbers[numbers >= 0])
        return torch.from_numpy(np.concatenate(blocks))


def words_of(line: str) -> list[str]:
    """The words of a short text."""
    return _WORD.findall(line.lower())


def _words(text: str) -> Iterator[list[str]]:
    """All words of a text, block by block."""
    start = 0
    while start < len(text):
        space = text.find(" ", start + _BLOCK)
        end = len(text) if space < 0 else space
        yield _WORD.findall(text[start:end].lower())
        start = end
