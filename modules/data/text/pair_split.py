"""A split of sentences and their translations, in batches of like length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from modules.data.base import END, IGNORED, PADDING, START, Batch

_WINDOW = 50  # batches that are sorted by length together


class PairSplit:
    """Texts lie in memory as rows of numbers; a batch is as long as its longest text.

    An epoch's order is one of chance in which windows of 50 batches are sorted by length, and their batches mixed again: on
    Multi30k by 32, 8 in 100 words of a batch are padding then, and 44 without it.
    """

    in_memory = True

    def __init__(self, sources: Sequence[list[int]], targets: Sequence[list[int]], numbers: Sequence[int]) -> None:
        """
        Args:
            sources: words of every source, without its end.
            targets: words of every translation, without its end.
            numbers: of the pairs, for evaluators.
        """
        self.sources, self.targets = rows(sources), rows(targets)
        self.source_lengths = (self.sources != PADDING).sum(1)
        self.target_lengths = (self.targets != PADDING).sum(1)
        self.numbers = torch.tensor(numbers, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.sources)

    def batch(self, indices: Tensor, generator: Generator) -> Batch:
        """Inputs: the source and the target's words so far; targets: what follows each of these, and the pair's number."""
        source = self.sources[indices, : int(self.source_lengths[indices].max())].long()
        target = self.targets[indices, : int(self.target_lengths[indices].max())].long()
        return (source, so_far(target)), (target.masked_fill(target == PADDING, IGNORED), self.numbers[indices])

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        """As `Ordered`: windows of a permutation, sorted by the target's length, then by the source's.

        What fills no batch is left over before anything is sorted: else it would be the longest texts, in every epoch.
        """
        every = torch.randperm(len(self), generator=generator)
        whole = len(self) // batch_size * batch_size
        lengths = self.target_lengths * (self.sources.shape[1] + 1) + self.source_lengths
        windows = torch.split(every[:whole], _WINDOW * batch_size)
        batches = torch.cat([window[lengths[window].argsort(stable=True)] for window in windows]).view(-1, batch_size)
        mixed = batches[torch.randperm(len(batches), generator=generator)]
        return torch.cat([mixed.flatten(), every[whole:]])


def rows(texts: Sequence[list[int]]) -> Tensor:
    """Texts with their ends and padding, int32 [texts, time]."""
    longest = max(map(len, texts), default=0) + 1
    found = torch.full((len(texts), longest), PADDING, dtype=torch.int32)
    for row, text in zip(found, texts, strict=True):
        row[: len(text) + 1] = torch.tensor([*text, END], dtype=torch.int32)
    return found


def so_far(target: Tensor) -> Tensor:
    """The words before each of a target's, int64 [batch, time]: `START`, then the target without its end."""
    before = torch.cat([torch.full_like(target[:, :1], START), target[:, :-1]], dim=1)
    return before.masked_fill(before == END, PADDING)
