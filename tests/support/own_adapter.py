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
        stack = _stack(model)
        layer = stack[self.number]
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"Shifts wants a linear layer, but {self.number} is none")
        stack[self.number] = Shift(layer)

    def merge(self, model: nn.Module) -> None:
        stack = _stack(model)
        shifted = stack[self.number]
        assert isinstance(shifted, Shift)
        with torch.no_grad():
            shifted.layer.weight += shifted.shift
        stack[self.number] = shifted.layer


def _stack(model: nn.Module) -> nn.Sequential:
    assert isinstance(model.stack, nn.Sequential)
    return model.stack
