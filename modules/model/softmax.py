"""Multinomial logistic regression: one linear layer."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from modules.model.base import Shard


class Softmax(nn.Module):
    """A linear layer from features to classes; initial weights are zero, so all classes are equally likely.

    Source: TensorFlow's tutorial "MNIST for ML beginners" (2015), https://www.tensorflow.org/versions/r0.10/tutorials.
    """

    is_component = True

    def __init__(self, num_features: int, num_classes: int) -> None:
        """
        Args:
            num_features: numbers of an example.
            num_classes: number of logits.
        """
        super().__init__()
        if min(num_features, num_classes) < 1:
            raise ValueError(
                f"Softmax wants num_features and num_classes of at least 1, but got {num_features} and {num_classes}"
            )
        linear = nn.Linear(num_features, num_classes)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        self.num_classes = num_classes
        self.stack = nn.Sequential(nn.Flatten(), linear)

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def shards(self) -> dict[str, Shard]:
        return {"stack.1": Shard("classes", self.num_classes, "num_classes")}

    def forward(self, inputs: Tensor) -> Tensor:
        """Score the classes.

        Args:
            inputs: float [batch, ...], ``num_features`` values per example.

        Returns:
            Logits, float [batch, num_classes].
        """
        return cast(Tensor, self.stack(inputs))
