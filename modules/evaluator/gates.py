"""Pictures of what the cell of a recurrent model does at every time step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.data.base import Split
from modules.evaluator.no_metrics import NoMetrics
from modules.evaluator.pictures.time_maps import draw_time_maps
from modules.model.base import HasGates


class Gates(NoMetrics):
    """Shows the inputs, the gates and the state of the first test sequences over time; it has no metrics.

    Use it beside an evaluator with metrics, in `Several`.
    """

    is_component = True

    def __init__(self, num_sequences: int = 2) -> None:
        """
        Args:
            num_sequences: how many pictures.
        """
        if num_sequences < 1:
            raise ValueError(f"Gates wants num_sequences of at least 1, but got {num_sequences}")
        self.num_sequences = num_sequences

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return a PNG ``gates_1.png`` etc. for each sequence: time runs to the right, a row is a unit.

        Raises:
            ValueError: the model has no method ``gates``.
        """
        if not isinstance(model, HasGates):
            raise ValueError(
                f"evaluator Gates wants a model with a method gates(inputs), such as model=recurrent, but {type(model).__name__} "
                "has none; choose another evaluator"
            )
        count = min(self.num_sequences, len(split))
        inputs, _ = split.batch(torch.arange(count), torch.zeros(count, dtype=torch.int64))
        assert isinstance(inputs, Tensor)
        gates = {"input": inputs, **model.gates(inputs)}
        return {
            f"gates_{number + 1}.png": draw_time_maps({name: value[number] for name, value in gates.items()})
            for number in range(count)
        }
