"""What a model needs for one micro-batch, layer by layer, as plain numbers; imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Weight:
    """One parameter as one rank holds it: a slice of it where its layer is split."""

    number: int
    """Its place among the model's parameters; a parameter that layers share has one."""
    size: int
    """Numbers in it."""
    bytes: int
    state_bytes: int
    """Of the optimizer's state after a step."""
    is_trained: bool


@dataclass(frozen=True)
class LayerCount:
    """One layer, trained on one micro-batch; of a layer that is split, one rank's share of it."""

    name: str
    weights: tuple[Weight, ...]
    buffers_bytes: int
    flops: int
    """Forward and backward pass; a multiply-add counts two."""
    num_operations: int
    """Of torch, in both passes."""
    outputs_bytes: int
    saved_bytes: int
    """What the forward pass keeps for the backward pass, the layer's inputs and outputs left out."""
    saves_inputs: bool
    saves_outputs: bool
    is_view: bool
    """The outputs lie in the same memory as the inputs."""
    forward_bytes: int
    """The most that the forward pass has at once, with what it keeps and its outputs."""
    backward_bytes: int
    """The most that the backward pass has at once, beyond what was kept and the gradient of the outputs; the gradients of
    the weights among it."""
    exchanged_bytes: int
    """What the ranks that share the layer add up in both passes."""
    num_exchanges: int

    @property
    def gradients_bytes(self) -> int:
        return sum(weight.bytes for weight in self.weights if weight.is_trained)


@dataclass(frozen=True)
class ModelCount:
    """A model and its objective, on one rank of a model-parallel group."""

    layers: tuple[LayerCount, ...]
    """From inputs to outputs; one where the model is no list of layers."""
    loss: LayerCount
    """The objective, which follows the last layer."""
    inputs_bytes: int
    targets_bytes: int
    update_bytes: float
    """What the optimizer needs for a moment while it updates a parameter, for every byte of it."""

    @property
    def num_parameters(self) -> int:
        return sum(weight.size for weight in self.weights(0, len(self.layers)))

    def weights(self, first: int, last: int) -> list[Weight]:
        """Those of the layers from ``first`` to before ``last``, each once."""
        found = {weight.number: weight for layer in self.layers[first:last] for weight in layer.weights}
        return list(found.values())


def interpolate(small: ModelCount, small_size: int, large: ModelCount, large_size: int, size: int) -> ModelCount:
    """The counts of a micro-batch of ``size`` examples, from those of two others: all of them grow in a straight line."""
    share = (size - small_size) / (large_size - small_size)

    def line(one: int, two: int) -> int:
        return max(0, round(one + (two - one) * share))

    merged: ModelCount = _merged(small, large, line)
    return merged


def _merged(one: Any, two: Any, line: Callable[[int, int], int]) -> Any:
    """Every whole number in two nested values of the same form, put together; all else as in the first."""
    if isinstance(one, tuple):
        return tuple(_merged(left, right, line) for left, right in zip(one, two, strict=True))
    if isinstance(one, LayerCount | ModelCount):
        merged = {
            field.name: _merged(getattr(one, field.name), getattr(two, field.name), line) for field in fields(one)
        }
        return type(one)(**merged)
    return line(one, two) if type(one) is int else one
