"""Squared and other losses between numbers, for regression."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from modules.data.base import Tensors


class RegressionLoss:
    """The mean loss between predicted and true numbers, over all numbers of the batch.

    Source of the Huber loss: Huber 1964, doi:10.1214/aoms/1177703732.
    """

    is_component = True

    def __init__(self, loss: Literal["squared", "absolute", "huber"] = "squared", huber_delta: float = 1.0) -> None:
        """
        Args:
            loss: of one number.
            huber_delta: error from which the Huber loss grows linearly, in the unit of the targets.
        """
        if not huber_delta > 0:
            raise ValueError(f"RegressionLoss wants huber_delta above 0, but got {huber_delta}")
        self.loss, self.huber_delta = loss, huber_delta

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over the numbers of a batch.

        Args:
            outputs: float [batch, ...].
            targets: float, of the same shape.

        Returns:
            The loss, float [], and the same detached as ``loss_squared``, ``loss_absolute`` or ``loss_huber``.

        Raises:
            ValueError: the shapes differ, or the targets are no floats.
        """
        check_numbers("RegressionLoss", outputs, targets)
        assert isinstance(outputs, Tensor)
        assert isinstance(targets, Tensor)
        if self.loss == "huber":
            loss = F.huber_loss(outputs, targets, delta=self.huber_delta)
        else:
            loss = F.mse_loss(outputs, targets) if self.loss == "squared" else F.l1_loss(outputs, targets)
        return loss, {f"loss_{self.loss}": loss.detach()}


def check_numbers(owner: str, outputs: Tensors, targets: Tensors) -> None:
    """
    Raises:
        ValueError: they are not two tensors of floats of the same shape.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
        raise ValueError(f"{owner} wants one tensor of outputs and one of targets, but got a tuple; pick one")
    if not targets.is_floating_point():
        raise ValueError(
            f"{owner} wants numbers as targets, but got {targets.dtype}, such as classes; for a classification choose "
            "objective=cross_entropy evaluator=accuracy, or for the numbers of a table data.kind=regression"
        )
    if outputs.shape != targets.shape:
        raise ValueError(
            f"{owner} wants outputs and targets of the same shape, but got {list(outputs.shape)} and {list(targets.shape)}; "
            "end the model in as many outputs as an example has numbers"
        )
