"""A collection of documents that can be searched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from modules.data.ranking.bm25 import Bm25
from modules.data.ranking.latent_vectors import LatentVectors
from modules.data.text.vocabulary import find_words

NUM_SIGNALS = 2
"""Of a candidate: BM25 of its text and BM25 of its title."""


@dataclass(frozen=True)
class Document:
    id: str
    title: str
    text: str


Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
"""What a model gets of queries.

Their vectors, float [batch, features]; and of their candidates the vectors, float [batch, candidates, features], the signals,
float [batch, candidates, NUM_SIGNALS], standardised over the candidates, and which are real, bool [batch, candidates].
"""


@dataclass(frozen=True)
class Candidates:
    """The documents that share most words with a query, in the order of BM25."""

    order: np.ndarray
    """Numbers of all documents in the order of BM25, int64 [documents]."""
    vector: Tensor
    """Of the query, float [features]."""
    numbers: Tensor
    """Of the candidates, int64 [candidates], or -1 for padding."""
    signals: Tensor
    """Of the candidates, float [candidates, NUM_SIGNALS]."""


class Collection:
    """Documents with BM25 of their texts and titles, and vectors of the texts."""

    def __init__(self, documents: Sequence[Document], vectors: LatentVectors, num_candidates: int) -> None:
        """
        Args:
            documents: all of the collection.
            vectors: of words.
            num_candidates: documents that a model ranks for a query; fewer are padded.
        """
        texts = [find_words(each.text) for each in documents]
        self.documents, self.vectors, self.num_candidates = documents, vectors, num_candidates
        self.of_texts, self.of_titles = Bm25(texts), Bm25([find_words(each.title) for each in documents])
        self.matrix = torch.from_numpy(np.stack([vectors.embed(words) for words in texts]))

    def search(self, query: str) -> Candidates:
        """Find the candidates of a query. Of documents with the same score, the first in the collection comes first."""
        words = find_words(query)
        scores, of_titles = self.of_texts.score(words), self.of_titles.score(words)
        order = np.argsort(-scores, kind="stable")
        chosen = order[: self.num_candidates]
        missing = self.num_candidates - len(chosen)
        signals = _standardise(np.stack([scores[chosen], of_titles[chosen]], axis=1))
        return Candidates(
            order,
            torch.from_numpy(self.vectors.embed(words)),
            torch.from_numpy(np.pad(chosen, (0, missing), constant_values=-1)),
            functional.pad(signals, (0, 0, 0, missing)),
        )

    def gather(self, vectors: Tensor, numbers: Tensor, signals: Tensor) -> Inputs:
        """Return what a model gets of queries with their candidates, each stacked to a batch."""
        is_real = numbers >= 0
        return vectors, self.matrix[numbers.clamp_min(0)] * is_real[..., None], signals, is_real

    def compare(self, query: str, texts: Sequence[str]) -> tuple[list[float], Inputs]:
        """Take other texts, without titles, as the candidates of a query; returns their BM25 scores too, and a batch of one."""
        words, documents = find_words(query), [find_words(text) for text in texts]
        scores = [self.of_texts.score_other(words, document) for document in documents]
        signals = _standardise(np.stack([scores, np.zeros(len(scores))], axis=1))
        vectors = torch.from_numpy(np.stack([self.vectors.embed(each) for each in documents]))
        is_real = torch.ones(1, len(texts), dtype=torch.bool)
        return scores, (torch.from_numpy(self.vectors.embed(words))[None], vectors[None], signals[None], is_real)


def _standardise(signals: np.ndarray) -> Tensor:
    """Scale each signal to mean 0 and standard deviation 1 over the candidates, float32."""
    return torch.from_numpy(((signals - signals.mean(0)) / np.maximum(signals.std(0), 1e-6)).astype(np.float32))
