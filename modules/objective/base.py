"""The contract of an objective: what training minimises."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from modules.data.base import Tensors


class Objective(Protocol):
    """A loss function.

    Example::

        class SquaredError:
            def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
                loss = (outputs - targets).square().mean()
                return loss, {"squared_error": loss.detach()}
    """

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean loss of a batch, and metrics.

        Returns:
            The loss, float [], and metrics, float [] each, under names such as ``loss_nats``; the split is put in front of
            the name.
        """
        ...
