"""Multi-layer perceptron."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, cast

from torch import Tensor, nn

from modules.model.base import Shard


class Mlp(nn.Module):
    """A multi-layer perceptron for flat features, with an activation and dropout after every hidden layer.

    Source: Rumelhart et al. 1986, doi:10.1038/323533a0; dropout: Srivastava et al. 2014.
    """

    is_component = True

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        hidden_sizes: Sequence[int],
        dropout_prob: float,
        activation: Literal["relu", "tanh"] = "relu",
    ) -> None:
        """
        Args:
            num_features: features per example.
            num_classes: logits per example.
            hidden_sizes: units of every hidden layer; an empty list makes a linear model.
            dropout_prob: dropout after every hidden layer.
            activation: after every hidden layer.
        """
        super().__init__()
        sizes = [num_features, *hidden_sizes]
        if min(*sizes, num_classes) < 1:
            raise ValueError(
                f"Mlp wants num_features, num_classes and hidden_sizes of at least 1, "
                f"but got {num_features}, {num_classes} and {list(hidden_sizes)}"
            )
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"Mlp wants dropout_prob in [0, 1), but got {dropout_prob}")
        kind = {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]
        hidden = [
            layer
            for below, above in pairwise(sizes)
            for layer in (nn.Linear(below, above), kind(), nn.Dropout(dropout_prob))
        ]
        self.hidden_sizes, self.num_classes = tuple(hidden_sizes), num_classes
        self.stack = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], num_classes))

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def shards(self) -> dict[str, Shard]:
        """Split pairs of layers by outputs and inputs; the last layer by class if its inputs are complete."""
        shards: dict[str, Shard] = {}
        for number in range(len(self.hidden_sizes) + 1):
            if number % 2:
                shard = Shard("row", self.hidden_sizes[number - 1], f"hidden_sizes[{number - 1}]")
            elif number < len(self.hidden_sizes):
                shard = Shard("column", self.hidden_sizes[number], f"hidden_sizes[{number}]")
            else:
                shard = Shard("classes", self.num_classes, "num_classes")
            shards[f"stack.{1 + 3 * number}"] = shard
        return shards

    def forward(self, inputs: Tensor) -> Tensor:
        """Score the classes.

        Args:
            inputs: float [batch, ...], ``num_features`` values per example.

        Returns:
            Logits, float [batch, num_classes].
        """
        return cast(Tensor, self.stack(inputs))
