"""The adapter of a training that has none."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn


class NoAdapter:
    """Leaves a model as it is: its weights are trained themselves."""

    is_component = True

    def attach(self, model: nn.Module, new: Collection[str]) -> None:
        """Add nothing."""

    def merge(self, model: nn.Module) -> None:
        """Change nothing."""
