"""The contract of an adapter: a few new parameters that are trained in place of the weights of a model."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import nn


class Adapter(Protocol):
    """Adds parameters to a model whose weights come from files (`init_from`) and are not trained.

    Checkpoints hold only what is trained, and buffers. The weights of the model are in the run folder once.

    Example::

        class ScaledHead:
            is_component = True

            def attach(self, model: nn.Module, new: Collection[str]) -> None:
                model.scale = nn.Parameter(torch.ones(1))

            def merge(self, model: nn.Module) -> None:
                with torch.no_grad():
                    model.head.weight *= model.scale
                del model.scale
    """

    def attach(self, model: nn.Module, new: Collection[str]) -> None:
        """Add the parameters of the adapter. The model keeps its own parameters as objects; their names may change.

        With these parameters the model first computes what it computed without them. Called once, before the training.

        Args:
            model: on the CPU, or on the meta device if only shapes matter.
            new: names of weights that the files do not have, such as a head for other classes. They are trained, too.

        Raises:
            ValueError: the model does not have the layers that the adapter wants.
        """
        ...

    def merge(self, model: nn.Module) -> None:
        """Change the weights so that the model computes the same without the adapter, and remove it, with its names."""
        ...


@runtime_checkable
class SavesAdapter(Protocol):
    """An adapter that another library can read."""

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write the trained parameters into an empty folder, without the weights of the model."""
        ...
