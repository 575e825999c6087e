"""A small adapter without a library: a vector that is added to the weight of each row of a layer."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn


class Shift(nn.Module):
    """A linear layer whose weight is shifted."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer, self.shift = layer, nn.Parameter(torch.zeros(layer.out_features, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.layer.weight + self.shift, self.layer.bias)


class Shifts:
    """Shifts one layer of an `Mlp`."""

    def __init__(self, layer: int = 1) -> None:
        self.number = layer

    def attach(self, model: nn.Module, new: Collection[str]) -> None:
        layer = model.stack[self.number]  # type: ignore[index]
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"Shifts wants a linear layer, but {self.number} is none")
        model.stack[self.number] = Shift(layer)  # type: ignore[index, operator]

    def merge(self, model: nn.Module) -> None:
        shifted = model.stack[self.number]  # type: ignore[index]
        with torch.no_grad():
            shifted.layer.weight += shifted.shift  # type: ignore[union-attr]
        model.stack[self.number] = shifted.layer  # type: ignore[index, operator, union-attr]
