"""Classifiers on the way through a deep network: in training their losses reach its lower layers, in evaluation they are not."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from modules.data.base import Tensors


class Auxiliary(nn.Module):
    """Adds what a classifier says of the features so far to the outputs; in evaluation it lets them pass.

    Source: Szegedy et al. 2014, arXiv:1409.4842, section 5.
    """

    def __init__(self, head: nn.Module) -> None:
        """
        Args:
            head: from features to logits.
        """
        super().__init__()
        self.head = head

    def forward(self, states: Tensors) -> Tensors:
        """From features, or features and the logits of classifiers below, to the same and one more tensor of logits."""
        if not self.training:
            return states
        features, *said = (states,) if isinstance(states, Tensor) else states
        return (features, *said, self.head(features))


class OnFirst(nn.Module):
    """Applies a layer to the features and hands on, untouched, what classifiers below have said."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: Tensors) -> Tensors:
        """From features, or features and logits, to the layer's outputs, or those and the logits."""
        if isinstance(states, Tensor):
            return cast(Tensor, self.layer(states))
        features, *said = states
        return (self.layer(features), *said)
