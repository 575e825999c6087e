"""The contract of a model: what every `nn.Module` offers, and what one that can be cut into a pipeline adds."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn


@runtime_checkable
class Layered(Protocol):
    """A model that offers itself as a list of layers; running them in turn is its forward pass."""

    def layers(self) -> list[nn.Module]:
        """The layers from inputs to outputs, each mapping the previous one's outputs."""
        ...
