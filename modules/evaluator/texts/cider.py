"""CIDEr-D: how far a caption has the words that people use for this photo, and not for all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import exp, log, sqrt

_MAX_ORDER, _SIGMA = 4, 6.0

Ngram = tuple[str, ...]


class CiderD:
    """Compares captions with references by n-grams of one to four words, weighted by how rare they are.

    Source: Vedantam et al. 2015, arXiv:1411.5726, sections 3 and 6; details as in the code of the COCO captions.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        """
        Args:
            references: of every photo of a split, words between spaces; n-grams that many photos have weigh little.
        """
        self.log_photos = log(max(len(references), 1))
        self.frequency = Counter[Ngram]()
        for texts in references:
            self.frequency.update({ngram for text in texts for order in _count(text) for ngram in order})

    def score(self, text: str, references: Sequence[str]) -> float:
        """Return the score of one caption, from 0 to 10."""
        own = self._weigh(_count(text))
        return 10 * sum(self._compare(own, text, each) for each in references) / len(references)

    def _compare(self, own: list[dict[Ngram, float]], text: str, reference: str) -> float:
        """The mean over the orders, from 0 to 1."""
        other = self._weigh(_count(reference))
        longer = len(text.split()) - len(reference.split())
        total = 0.0
        for mine, theirs in zip(own, other, strict=True):
            norm = sqrt(sum(weight**2 for weight in mine.values()) * sum(weight**2 for weight in theirs.values()))
            # A caption gains nothing by repeating a word more often than the reference has it.
            product = sum(
                min(weight, theirs[ngram]) * theirs[ngram] for ngram, weight in mine.items() if ngram in theirs
            )
            total += product / norm if norm else 0.0
        return total * exp(-(longer**2) / (2 * _SIGMA**2)) / _MAX_ORDER

    def _weigh(self, counts: list[Counter[Ngram]]) -> list[dict[Ngram, float]]:
        return [
            {ngram: count * (self.log_photos - log(max(self.frequency[ngram], 1))) for ngram, count in order.items()}
            for order in counts
        ]


def _count(text: str) -> list[Counter[Ngram]]:
    """How often a text has each n-gram, by the number of its words."""
    words = text.split()
    return [
        Counter(tuple(words[first : first + order]) for first in range(len(words) - order + 1))
        for order in range(1, _MAX_ORDER + 1)
    ]
