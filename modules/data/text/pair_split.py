"""A split of sentences and their translations, in batches of similar length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from modules.data.base import END, IGNORED, PADDING, START, Batch
from modules.data.sampling.by_length import order_by_length


class PairSplit:
    """Texts in memory as rows of token ids; a batch is as long as its longest text.

    The order of an epoch is random, but windows of 50 batches are sorted by length, and their batches shuffled. On Multi30k
    with batches of 32, 8 % of the tokens are padding, instead of 44 %.
    """

    in_memory = True

    def __init__(self, sources: Sequence[list[int]], targets: Sequence[list[int]], numbers: Sequence[int]) -> None:
        """
        Args:
            sources: token ids of every source, without `END`.
            targets: token ids of every translation, without `END`.
            numbers: pair ids, for evaluators.
        """
        self.sources, self.targets = pad_texts(sources), pad_texts(targets)
        self.source_lengths = (self.sources != PADDING).sum(1)
        self.target_lengths = (self.targets != PADDING).sum(1)
        self.numbers = torch.tensor(numbers, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        """Inputs: source, and target shifted by one; targets: the target, and the pair ids."""
        source = self.sources[indices, : int(self.source_lengths[indices].max())].long()
        target = self.targets[indices, : int(self.target_lengths[indices].max())].long()
        return (source, shift_right(target)), (target.masked_fill(target == PADDING, IGNORED), self.numbers[indices])

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        """As `Ordered`: by the length of the target, then of the source; see `order_by_length`."""
        lengths = self.target_lengths * (self.sources.shape[1] + 1) + self.source_lengths
        return order_by_length(lengths, batch_size, generator)


def pad_texts(texts: Sequence[list[int]]) -> Tensor:
    """Return texts with `END` and padding, int32 [texts, time]."""
    longest = max(map(len, texts), default=0) + 1
    padded = torch.full((len(texts), longest), PADDING, dtype=torch.int32)
    for row, text in zip(padded, texts, strict=True):
        row[: len(text) + 1] = torch.tensor([*text, END], dtype=torch.int32)
    return padded


def shift_right(target: Tensor) -> Tensor:
    """Return the token before each target token, int64 [batch, time]: `START`, then the target without its end."""
    before = torch.cat([torch.full_like(target[:, :1], START), target[:, :-1]], dim=1)
    return before.masked_fill(before == END, PADDING)
