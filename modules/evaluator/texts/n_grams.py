"""Unigram and bigram language models of texts, as baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.data.base import START


class NGrams:
    """Word probabilities from counts: of unigrams, and of bigrams with interpolated Kneser-Ney smoothing.

    The discount is ``n1 / (n1 + 2 n2)``, with the numbers of bigrams that occur once and twice; the probabilities that a word
    continues another are discounted too, towards the uniform distribution. Unigrams count one more than they occur.
    Source: Kneser and Ney 1995; Chen and Goodman 1999, doi:10.1006/csla.1999.0128, section 2.7.
    """

    def __init__(self, texts: Tensor, vocab_size: int, ignored: int) -> None:
        """
        Args:
            texts: word ids, int64 [texts, time].
            vocab_size: number of word ids.
            ignored: id of padding, at the end of texts.
        """
        self.vocab_size, self.ignored = vocab_size, ignored
        before, words = self._pairs(texts)
        counts = torch.bincount(words, minlength=vocab_size).double()
        self.unigrams = (counts + 1) / (counts.sum() + vocab_size)
        self.keys, self.counts = torch.unique(before * vocab_size + words, return_counts=True)
        first, second = self.keys // vocab_size, self.keys % vocab_size
        self.totals = torch.zeros(vocab_size, dtype=torch.float64).index_add_(0, first, self.counts.double())
        self.num_after = torch.bincount(first, minlength=vocab_size).double()
        once, twice = (int((self.counts == times).sum()) for times in (1, 2))
        self.discount = once / max(once + 2 * twice, 1)
        num_before = torch.bincount(second, minlength=vocab_size).double()
        kept = (num_before - self.discount).clamp_min(0) / num_before.sum().clamp_min(1)
        self.continuation = kept + (1 - kept.sum()) / vocab_size

    def sum_nats(self, texts: Tensor) -> tuple[float, float]:
        """Return the cross entropy of all words by unigrams and by bigrams, in nats; texts as in the constructor."""
        before, words = self._pairs(texts)
        keys = before * self.vocab_size + words
        places = torch.searchsorted(self.keys, keys).clamp_max(max(len(self.keys) - 1, 0))
        counts = self.counts[places] * (self.keys[places] == keys)
        total = self.totals[before].clamp_min(1)
        kept = (counts - self.discount).clamp_min(0) / total
        # A word that the training never saw before another says nothing about what follows.
        rest = torch.where(self.totals[before] > 0, self.discount * self.num_after[before] / total, 1.0)
        bigrams = kept + rest * self.continuation[words]
        return -float(self.unigrams[words].log().sum()), -float(bigrams.log().sum())

    def _pairs(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Each word with the one before it, int64 [words] each."""
        before = torch.cat([torch.full_like(texts[:, :1], START), texts[:, :-1]], dim=1)
        is_word = texts != self.ignored
        return before[is_word], texts[is_word]
