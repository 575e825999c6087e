"""BM25: scores documents by the words that they share with a query."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np

K1: Final = 1.2
B: Final = 0.75


class Bm25:
    """The BM25 score of every document for a query, with k1 = 1.2 and b = 0.75.

    A word of the query counts as often as it occurs there. The inverse document frequency of a word in n of N documents is
    ``ln(1 + (N - n + 0.5) / (n + 0.5))``, which is never negative.
    Source: Robertson and Zaragoza 2009, doi:10.1561/1500000019, section 3.
    """

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        """
        Args:
            documents: the words of each.
        """
        self.count = len(documents)
        self.mean_length = max(sum(map(len, documents)) / max(self.count, 1), 1e-9)
        found: dict[str, tuple[list[int], list[float]]] = {}
        for number, words in enumerate(documents):
            for word, weight in self._weigh(words).items():
                numbers, weights = found.setdefault(word, ([], []))
                numbers.append(number)
                weights.append(weight)
        self.postings = {word: (np.array(numbers), np.array(weights)) for word, (numbers, weights) in found.items()}

    def score(self, query: Sequence[str]) -> np.ndarray:
        """Return the scores of the documents, float64 [documents]."""
        scores = np.zeros(self.count)
        for word, times in Counter(query).items():
            if word in self.postings:
                numbers, weights = self.postings[word]
                scores[numbers] += times * self._rarity(word) * weights
        return scores

    def score_other(self, query: Sequence[str], document: Sequence[str]) -> float:
        """Return the score of a document that is not one of the collection."""
        weights = self._weigh(document)
        return float(sum(times * self._rarity(word) * weights.get(word, 0.0) for word, times in Counter(query).items()))

    def _weigh(self, words: Sequence[str]) -> dict[str, float]:
        norm = K1 * (1 - B + B * len(words) / self.mean_length)
        return {word: count * (K1 + 1) / (count + norm) for word, count in Counter(words).items()}

    def _rarity(self, word: str) -> float:
        num_with = len(self.postings[word][0]) if word in self.postings else 0
        return float(np.log1p((self.count - num_with + 0.5) / (num_with + 0.5)))
