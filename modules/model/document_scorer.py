"""Scores the documents of a query one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

from torch import Tensor, nn


class DocumentScorer(nn.Module):
    """A multi-layer perceptron that gives each document of a query a score by its signals.

    Source: Burges et al. 2005, doi:10.1145/1102351.1102363.
    """

    is_component = True

    def __init__(self, num_features: int, hidden_sizes: Sequence[int], dropout_prob: float = 0.0) -> None:
        """
        Args:
            num_features: signals of a document.
            hidden_sizes: units of every hidden layer; an empty list makes a linear model.
            dropout_prob: dropout after every hidden layer.
        """
        super().__init__()
        if min(num_features, *hidden_sizes, 1) < 1:
            raise ValueError(
                f"DocumentScorer wants num_features and hidden_sizes of at least 1, but got {num_features} and "
                f"{list(hidden_sizes)}"
            )
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"DocumentScorer wants dropout_prob in [0, 1), but got {dropout_prob}")
        sizes = [num_features, *hidden_sizes]
        hidden = [
            layer
            for below, above in pairwise(sizes)
            for layer in (nn.Linear(below, above), nn.ReLU(), nn.Dropout(dropout_prob))
        ]
        self.stack = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1), nn.Flatten(-2))

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def forward(self, documents: Tensor) -> Tensor:
        """Score documents.

        Args:
            documents: float [batch, documents, num_features].

        Returns:
            float [batch, documents]; the best document has the highest score.
        """
        return cast(Tensor, self.stack(documents))
