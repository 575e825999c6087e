"""Queries about a collection of documents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.data.base import Batch
from modules.data.ranking.collection import Candidates, Collection


class QuerySplit:
    """Queries in memory, with their texts and the collection for evaluators."""

    in_memory = True

    def __init__(
        self, queries: Sequence[str], found: Sequence[Candidates], targets: tuple[Tensor, ...], collection: Collection
    ) -> None:
        """
        Args:
            queries: their texts.
            found: the candidates of each.
            targets: tensors whose first dimension is the queries.
            collection: of all documents.
        """
        self.queries, self.targets, self.collection = queries, targets, collection
        self.vectors = torch.stack([each.vector for each in found])
        self.numbers = torch.stack([each.numbers for each in found])
        self.signals = torch.stack([each.signals for each in found])

    def __len__(self) -> int:
        return len(self.queries)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        inputs = self.collection.gather(self.vectors[indices], self.numbers[indices], self.signals[indices])
        return inputs, tuple(each[indices] for each in self.targets)
