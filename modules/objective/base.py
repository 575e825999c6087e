"""The contract of an objective: what training minimises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

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


@runtime_checkable
class CountsTargets(Protocol):
    """An objective whose loss may be a mean over something else than examples, such as all tokens that are not padding.

    With it the loss of a step is the same for every number of micro-batches and replicas, though texts differ in length.
    """

    def count_targets(self, targets: Tensors) -> Tensor | None:
        """Count what the mean of a batch is over, float [], at least 0; it depends only on the targets. None: the examples."""
        ...


def apply_objective(objective: Objective, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
    """Compute the loss and the metrics, as `Objective.__call__`.

    Raises:
        TypeError: the objective returns something else.
    """
    result: object = objective(outputs, targets)
    match result:
        case (Tensor() as loss, Mapping() as metrics):
            return loss, dict(metrics)
    kind = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
    raise TypeError(
        f"objective {type(objective).__name__} returns {kind}; return the loss and a dict of metrics: `return loss, {{}}`"
    )
