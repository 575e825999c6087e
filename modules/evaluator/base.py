"""The contract of an evaluator: sums that add up over batches and ranks, and the metrics that follow from them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from modules.data.base import Tensors


class Evaluator(Protocol):
    def measure(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Sums of one batch, float64 [sums]; adding those of two batches gives those of both together."""
        ...

    def metrics(self, sums: Tensor) -> dict[str, float]:
        """Metrics of everything that was summed, under names such as ``accuracy_top1`` (the split is put before).

        Args:
            sums: float64 [sums].
        """
        ...
