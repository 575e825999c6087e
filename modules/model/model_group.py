"""Several trained models side by side, for evaluators that use one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


class ModelGroup(nn.Module):
    """Models by name, which are not trained together. Their weights come from runs of their own.

    `init_from.weights={NAME: RUN, ...}` names the run of each; `task=evaluation_only max_steps=0` evaluates them.
    """

    is_component = True

    def __init__(self, parts: Mapping[str, nn.Module]) -> None:
        """
        Args:
            parts: the models by name.

        Raises:
            ValueError: there is none, or a name cannot be used.
        """
        super().__init__()
        if not parts:
            raise ValueError("ModelGroup wants at least one model in parts, but got none")
        for name, part in parts.items():
            if not name.isidentifier() or hasattr(self, name):
                raise ValueError(
                    f"ModelGroup cannot use {name!r} as the name of a model; choose another in model.parts"
                )
            self.add_module(name, part)

    def forward(self, inputs: Any) -> Any:
        """Return the inputs as they are: what the models do together, the evaluator says."""
        return inputs
