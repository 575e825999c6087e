"""The words of a text as ids, by falling frequency."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

_WORD = re.compile(r"[^\W\d_]+")
_BLOCK = 1 << 20  # characters; avoids a list of all words of a text of gigabytes


class Vocabulary:
    """Ids of frequent words; rare words have no id, and `encode` leaves them out.

    A word is a sequence of letters of any alphabet, in lower case, as in Mahoney's text8.
    """

    def __init__(self, texts: Iterable[str], vocab_size: int, min_count: int) -> None:
        """
        Args:
            texts: to count the words in.
            vocab_size: maximum number of words; equal counts in alphabetical order.
            min_count: minimum number of occurrences of a word.
        """
        counts = Counter[str]()
        for text in texts:
            for words in _words(text):
                counts.update(words)
        known = sorted(counts, key=lambda word: (-counts[word], word))[:vocab_size]
        self.words: Sequence[str] = [word for word in known if counts[word] >= min_count]
        self.counts = torch.tensor([counts[word] for word in self.words], dtype=torch.int64)
        self.numbers = {word: number for number, word in enumerate(self.words)}

    @classmethod
    def restore(cls, words: Sequence[str], counts: Sequence[int]) -> Vocabulary:
        """Return the vocabulary of these words, the most frequent first."""
        restored = cls((), len(words), 1)
        restored.words, restored.counts = words, torch.tensor(counts, dtype=torch.int64)
        restored.numbers = {word: number for number, word in enumerate(words)}
        return restored

    def encode(self, text: str) -> Tensor:
        """Return word ids, int32 [known words]."""
        blocks = [np.empty(0, np.int32)]
        for words in _words(text):
            numbers = np.fromiter((self.numbers.get(word, -1) for word in words), np.int32, len(words))
            blocks.append(numbers[numbers >= 0])
        return torch.from_numpy(np.concatenate(blocks))


def find_words(line: str) -> list[str]:
    """Return the words of a short text."""
    return _WORD.findall(line.lower())


def _words(text: str) -> Iterator[list[str]]:
    """Yield the words of a text, block by block."""
    start = 0
    while start < len(text):
        space = text.find(" ", start + _BLOCK)
        end = len(text) if space < 0 else space
        yield _WORD.findall(text[start:end].lower())
        start = end
