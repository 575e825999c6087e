"""An evaluator without metrics of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.data.base import Data, Tree


class NoMetrics:
    """Leaves an evaluation with the metrics of the task's losses."""

    is_component = True
    headline = ()

    def setup(self, data: Data) -> None:
        """Take nothing from the data."""

    def update_with_model(self, model: nn.Module, batch: Tree) -> Tensor:
        return torch.zeros(1, dtype=torch.float64)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        return {}
