"""How far predicted numbers are from the true ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

from modules.data.base import InputReader, Tensors
from modules.evaluator.base import Prediction
from modules.evaluator.outputs import compute_outputs
from modules.objective.regression_loss import check_numbers


class Regression:
    """Metrics: ``mae``, mean absolute error, and ``rmse``, root of the mean squared error, both in the unit of the target;
    ``r2``, the share of the variance that the model explains: 1 is perfect, 0 as good as the mean.
    """

    is_component = True
    headline = ("r2", "max")

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        """
        Args:
            mean: of the target in its unit; the model learns ``(target - mean) / std``.
            std: the divisor.
        """
        if not std > 0:
            raise ValueError(f"Regression wants std above 0, but got {std}")
        self.mean, self.std = mean, std

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Sum the errors of one batch.

        Args:
            outputs: float [batch, ...].
            targets: float, of the same shape.

        Returns:
            float64 [5]: numbers, absolute errors, squared errors, targets, squared targets.

        Raises:
            ValueError: the shapes differ, or the targets are no floats.
        """
        check_numbers("Regression", outputs, targets)
        assert isinstance(outputs, Tensor)
        assert isinstance(targets, Tensor)
        true, error = targets.double(), outputs.double() - targets.double()
        count = true.new_tensor(float(true.numel()))
        return torch.stack([count, error.abs().sum(), error.square().sum(), true.sum(), true.square().sum()])

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the metrics; ``r2`` is nan if all targets are equal.

        Raises:
            ValueError: the sums contain no example.
        """
        count, absolute, squared, total, total_squares = sums.tolist()
        if count == 0:
            raise ValueError("Regression wants at least 1 example, but got 0; evaluate on a split that is not empty")
        spread = total_squares - total * total / count
        r2 = 1 - squared / spread if spread > 1e-12 * max(total_squares, 1e-300) else float("nan")
        return {"mae": self.std * absolute / count, "rmse": self.std * sqrt(squared / count), "r2": r2}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Return the number, in the unit of the target."""
        outputs = compute_outputs(model, data.read(inputs))
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape[1] != 1:
            raise ValueError("evaluator Regression predicts with models that give one number per example")
        values = (outputs[:, 0].double() * self.std + self.mean).tolist()
        return [Prediction(f"{value:.6g}", {"value": value}) for value in values]
