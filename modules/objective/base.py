"""The contract of an objective: what training minimises."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from modules.data.base import Tensors


class Objective(Protocol):
    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean loss of a batch, with what else is worth a curve.

        Returns:
            The loss, float [], and metrics, float [] each, under names such as ``loss_nats`` (the split is put before).
        """
        ...
