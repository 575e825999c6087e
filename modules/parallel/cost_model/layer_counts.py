"""FLOPs, memory and communication of a model for one micro-batch, layer by layer. Does not import torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Weight:
    """One parameter on one rank: a slice if its layer is split."""

    number: int
    """Index among the model's parameters; layers that share a parameter have the same number."""
    size: int
    """Number of elements."""
    bytes: int
    state_bytes: int
    """Optimizer state after a step."""
    is_trained: bool


@dataclass(frozen=True)
class LayerCount:
    """One layer, trained on one micro-batch; if the layer is split, the part of one rank."""

    name: str
    weights: tuple[Weight, ...]
    buffers_bytes: int
    flops: int
    """Forward and backward pass; a multiply-add counts as two."""
    num_operations: int
    """Torch operations in both passes."""
    outputs_bytes: int
    saved_bytes: int
    """Tensors saved for the backward pass, without the layer's inputs and outputs."""
    saves_inputs: bool
    saves_outputs: bool
    is_view: bool
    """The outputs use the memory of the inputs."""
    forward_bytes: int
    """Peak of the forward pass, including saved tensors and outputs."""
    backward_bytes: int
    """Peak of the backward pass, including the gradients of the weights; without saved tensors and the gradient of the
    outputs."""
    exchanged_bytes: int
    """All-reduced between the ranks that split the layer, in both passes."""
    num_exchanges: int

    @property
    def gradients_bytes(self) -> int:
        return sum(weight.bytes for weight in self.weights if weight.is_trained)


@dataclass(frozen=True)
class ModelCount:
    """A model and its objective, on one rank of a model-parallel group."""

    layers: tuple[LayerCount, ...]
    """From inputs to outputs; a single one if the model is not a list of layers."""
    loss: LayerCount
    """The objective, after the last layer."""
    inputs_bytes: int
    targets_bytes: int
    update_bytes: float
    """Temporary memory of an optimizer update, per byte of the parameter."""

    @property
    def num_parameters(self) -> int:
        return sum(weight.size for weight in self.weights(0, len(self.layers)))

    def weights(self, first: int, last: int) -> list[Weight]:
        """Weights of the layers from ``first`` to ``last - 1``, without duplicates."""
        weights = {weight.number: weight for layer in self.layers[first:last] for weight in layer.weights}
        return list(weights.values())


def interpolate(small: ModelCount, small_size: int, large: ModelCount, large_size: int, size: int) -> ModelCount:
    """Estimate the counts of a micro-batch of ``size`` examples from two other sizes: all counts are linear in the size."""
    ratio = (size - small_size) / (large_size - small_size)

    def interpolate_count(one: int, two: int) -> int:
        return max(0, round(one + (two - one) * ratio))

    merged: ModelCount = _merge(small, large, interpolate_count)
    return merged


def _merge(one: Any, two: Any, merge: Callable[[int, int], int]) -> Any:
    """Merge the integers of two nested values of the same structure; other values are those of ``one``."""
    if isinstance(one, tuple):
        return tuple(_merge(left, right, merge) for left, right in zip(one, two, strict=True))
    if isinstance(one, LayerCount | ModelCount):
        merged = {
            field.name: _merge(getattr(one, field.name), getattr(two, field.name), merge) for field in fields(one)
        }
        return type(one)(**merged)
    return merge(one, two) if type(one) is int else one
