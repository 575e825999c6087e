"""Auxiliary classifiers inside a deep network, used only in training."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from modules.data.base import Tensors


class Auxiliary(nn.Module):
    """Appends the logits of a classifier to the features in training; does nothing in evaluation.

    Source: Szegedy et al. 2014, arXiv:1409.4842, section 5.
    """

    def __init__(self, head: nn.Module) -> None:
        """
        Args:
            head: maps features to logits.
        """
        super().__init__()
        self.head = head

    def forward(self, states: Tensors) -> Tensors:
        """Map features, or features and the logits of lower classifiers, to the same and one more tensor of logits."""
        if not self.training:
            return states
        features, *logits = (states,) if isinstance(states, Tensor) else states
        return (features, *logits, self.head(features))


class OnFirst(nn.Module):
    """Applies a layer to the features, and passes the logits of lower classifiers on."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, states: Tensors) -> Tensors:
        """Map features, or features and logits, to the outputs of the layer, or outputs and logits."""
        if isinstance(states, Tensor):
            return cast(Tensor, self.layer(states))
        features, *logits = states
        return (self.layer(features), *logits)
