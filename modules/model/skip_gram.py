"""Vectors of words, by which a word tells the words around it: word2vec's skip-gram."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SkipGram(nn.Module):
    """Two vectors for every word, one as the word and one as a word around it; their product says how well they go together.

    Source: Mikolov et al. 2013, arXiv:1301.3781 and arXiv:1310.4546.
    """

    def __init__(self, vocab_size: int, embedding_size: int, window: int, sparse_gradients: bool) -> None:
        """
        Args:
            vocab_size: words that have a vector.
            embedding_size: numbers of a vector.
            window: farthest word that is scored on either side of a word.
            sparse_gradients: gradients hold only the rows of words that a batch has: what makes large vocabularies
                trainable. Wants an optimizer that knows them, and one process or replicas on CPUs.
        """
        super().__init__()
        if min(vocab_size, embedding_size, window) < 1:
            raise ValueError(
                f"SkipGram wants vocab_size, embedding_size and window of at least 1, but got {vocab_size}, "
                f"{embedding_size}, {window}; raise what is below"
            )
        if sparse_gradients:
            torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # as is torch's default, which 2.13 warns of
        self.window = window
        self.words = nn.Embedding(vocab_size, embedding_size, sparse=sparse_gradients)
        self.around = nn.Embedding(vocab_size, embedding_size, sparse=sparse_gradients)
        nn.init.uniform_(self.words.weight, -0.5 / embedding_size, 0.5 / embedding_size)  # as word2vec's code
        nn.init.zeros_(self.around.weight)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Score words with those around them and with words of noise.

        Args:
            inputs: words int64 [batch, time], and noise int64 [batch, num_negatives].

        Returns:
            Logits of every word with that at each distance ``-window .. window``, itself among them, float [batch, time,
            2 * window + 1]; beyond the ends they are 0. And with every word of noise, float [batch, time, num_negatives].
        """
        words, noise = inputs
        vectors, time = self.words(words), words.shape[1]
        around = self.around(
            torch.cat([words, noise], dim=1)
        )  # one sparse gradient, where two would have to be added up
        return near(vectors, around[:, :time], self.window), vectors @ around[:, time:].transpose(1, 2)

    def word_vectors(self) -> Tensor:
        """The vector of every word, float [vocab_size, embedding_size]."""
        return self.words.weight


def near(left: Tensor, right: Tensor, window: int) -> Tensor:
    """Products of every vector with those at each distance ``-window .. window``: the diagonals of one product.

    Args:
        left: float [batch, time, features].
        right: the same.
        window: farthest distance.

    Returns:
        float [batch, time, 2 * window + 1].
    """
    found: Tensor = _Near.apply(left, right, window)  # type: ignore[no-untyped-call]
    return found


class _Near(torch.autograd.Function):
    """Multiplies chunks of the time with what is around them, as most of the whole product would be thrown away.

    By itself, and not as torch would differentiate it: the gradient of every chunk would be as large as its whole input.
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
    """Stretches of the time, and what they see of a time that begins ``window`` earlier."""
    time = left.shape[1]
    ends = [(first, min(time, first + _Near.CHUNK)) for first in range(0, time, _Near.CHUNK)]
    return [(slice(first, last), slice(first, last + 2 * window)) for first, last in ends]


def _band(scores: Tensor, window: int) -> Tensor:
    """A view of the diagonals: [batch, time, 2 * window + 1] of [batch, time, time + 2 * window]."""
    batch, time, columns = scores.shape
    return scores.as_strided((batch, time, 2 * window + 1), (time * columns, columns + 1, 1))
