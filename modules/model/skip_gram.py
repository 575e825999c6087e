"""The skip-gram model of word2vec."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SkipGram(nn.Module):
    """Two vectors for every word, as centre word and as context word; their dot product is the logit of a pair.

    Source: Mikolov et al. 2013, arXiv:1301.3781 and arXiv:1310.4546.
    """

    is_component = True

    def __init__(self, vocab_size: int, embedding_size: int, window: int, sparse_gradients: bool) -> None:
        """
        Args:
            vocab_size: size of the vocabulary.
            embedding_size: dimensions of a vector.
            window: maximum distance of a context word.
            sparse_gradients: gradients hold only the rows of a batch, which large vocabularies need. This requires an
                optimizer with sparse gradients, and one process or replicas on CPUs.
        """
        super().__init__()
        if min(vocab_size, embedding_size, window) < 1:
            raise ValueError(
                f"SkipGram wants vocab_size, embedding_size and window of at least 1, but got {vocab_size}, "
                f"{embedding_size}, {window}; raise those below 1"
            )
        if sparse_gradients:
            torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # as is torch's default, which 2.13 warns of
        self.window = window
        self.words = nn.Embedding(vocab_size, embedding_size, sparse=sparse_gradients)
        self.around = nn.Embedding(vocab_size, embedding_size, sparse=sparse_gradients)
        nn.init.uniform_(self.words.weight, -0.5 / embedding_size, 0.5 / embedding_size)  # as word2vec's code
        nn.init.zeros_(self.around.weight)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Score words with their context words and with negative samples.

        Args:
            inputs: words int64 [batch, time], and negative samples int64 [batch, num_negatives].

        Returns:
            Logits of every word with the word at each distance ``-window .. window``, float [batch, time, 2 * window + 1], 0
            beyond the ends; and with every negative sample, float [batch, time, num_negatives].
        """
        words, noise = inputs
        vectors, time = self.words(words), words.shape[1]
        around = self.around(
            torch.cat([words, noise], dim=1)
        )  # one sparse gradient, where two would have to be added up
        return near(vectors, around[:, :time], self.window), vectors @ around[:, time:].transpose(1, 2)

    def word_vectors(self) -> Tensor:
        """Return the vector of every word, float [vocab_size, embedding_size]."""
        return self.words.weight


def near(left: Tensor, right: Tensor, window: int) -> Tensor:
    """Compute dot products of every vector with those at each distance ``-window .. window``.

    Args:
        left: float [batch, time, features].
        right: of the same shape.
        window: maximum distance.

    Returns:
        float [batch, time, 2 * window + 1].
    """
    products: Tensor = _Near.apply(left, right, window)  # type: ignore[no-untyped-call]
    return products


class _Near(torch.autograd.Function):
    """Multiplies chunks of the time with their surroundings, because most of the full product is not needed.

    It has its own backward pass: with torch's, the gradient of every chunk would have the size of the whole input.
    """

    CHUNK = 16

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, window: int) -> Tensor:
        ctx.window, padded = window, F.pad(right, (0, 0, window, window))
        ctx.save_for_backward(left, padded)
        scores = [left[:, own] @ padded[:, around].transpose(1, 2) for own, around in _chunks(left, window)]
        return torch.cat([_band(each, window) for each in scores], dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        (left, padded), window = ctx.saved_tensors, ctx.window
        grad = grad.to(left.dtype)  # under autocast scores are shorter than vectors
        of_left, of_padded = torch.empty_like(left), torch.zeros_like(padded)
        for own, around in _chunks(left, window):
            spread = grad.new_zeros(len(left), own.stop - own.start, around.stop - around.start)
            _band(spread, window).copy_(grad[:, own])
            of_left[:, own] = spread @ padded[:, around]
            of_padded[:, around] += spread.transpose(1, 2) @ left[:, own]
        return of_left, of_padded[:, window : padded.shape[1] - window], None


def _chunks(left: Tensor, window: int) -> list[tuple[slice, slice]]:
    """Return chunks of the time, and their surroundings in a time that begins ``window`` earlier."""
    time = left.shape[1]
    ends = [(first, min(time, first + _Near.CHUNK)) for first in range(0, time, _Near.CHUNK)]
    return [(slice(first, last), slice(first, last + 2 * window)) for first, last in ends]


def _band(scores: Tensor, window: int) -> Tensor:
    """Return a view of the diagonals: [batch, time, 2 * window + 1] of [batch, time, time + 2 * window]."""
    batch, time, columns = scores.shape
    return scores.as_strided((batch, time, 2 * window + 1), (time * columns, columns + 1, 1))
