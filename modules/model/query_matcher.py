"""Scores documents for a query by vectors and signals."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QueryMatcher(nn.Module):
    """Learns in which directions the vectors of a query and of a relevant document agree, and what the signals add.

    Query and documents are mapped by one matrix, which starts as the identity, and compared by the cosine. Attention over the
    candidates adds the best of them to the query, and the cosine with this longer query is a signal too. A score is a linear
    function of the signals, plus a small network. All signals are standardised over the candidates.
    Source: Huang et al. 2013, doi:10.1145/2505515.2505665 (the cosine of learned vectors); Rocchio 1971 (feedback of the best
    documents).
    """

    is_component = True

    def __init__(self, vector_size: int, num_signals: int, hidden_size: int, dropout_prob: float) -> None:
        """
        Args:
            vector_size: features of a vector.
            num_signals: of a candidate, besides the vectors.
            hidden_size: units of the small network.
            dropout_prob: of the vectors and of the hidden units.
        """
        super().__init__()
        if min(vector_size, num_signals, hidden_size) < 1 or not 0 <= dropout_prob < 1:
            raise ValueError(
                f"QueryMatcher wants vector_size, num_signals and hidden_size of at least 1 and dropout_prob in [0, 1), but got "
                f"{vector_size}, {num_signals}, {hidden_size} and {dropout_prob}"
            )
        self.project = nn.Sequential(nn.Dropout(dropout_prob), nn.Linear(vector_size, vector_size, bias=False))
        nn.init.eye_(cast(Tensor, self.project[1].weight))
        self.feedback = nn.Parameter(torch.ones(2))  # the scale of the attention, and the weight of what it finds
        self.weigh = nn.Linear(num_signals + 2, 1, bias=False)
        nn.init.ones_(self.weigh.weight)
        self.refine = nn.Sequential(
            nn.Linear(num_signals + 2, hidden_size), nn.ReLU(), nn.Dropout(dropout_prob), nn.Linear(hidden_size, 1)
        )
        nn.init.zeros_(cast(Tensor, self.refine[3].weight))

    def forward(self, inputs: tuple[Tensor, Tensor, Tensor, Tensor]) -> Tensor:
        """Score the candidates of each query.

        Args:
            inputs: the query's vector, float [batch, vector_size]; and of its candidates the vectors, float [batch, candidates,
                vector_size], the signals, float [batch, candidates, num_signals], the most important first, and which are real,
                bool [batch, candidates].

        Returns:
            float [batch, candidates]; the best document has the highest score.
        """
        query, documents, signals, is_real = inputs
        query, documents = (F.normalize(self.project(each), dim=-1) for each in (query, documents))
        cosine = _standardise(torch.einsum("bf,bcf->bc", query, documents), is_real)
        scale, weight = self.feedback
        attention = (scale * (signals[..., 0] + cosine)).masked_fill(~is_real, -1e9).softmax(1)
        longer = F.normalize(query + weight * torch.einsum("bc,bcf->bf", attention, documents), dim=-1)
        after = _standardise(torch.einsum("bf,bcf->bc", longer, documents), is_real)
        every = torch.cat([signals, cosine[..., None], after[..., None]], dim=-1)
        return cast(Tensor, (self.weigh(every) + self.refine(every)).squeeze(-1))


def _standardise(values: Tensor, is_real: Tensor) -> Tensor:
    """Scale the values of each row to mean 0 and standard deviation 1 over the real ones."""
    count = is_real.sum(1, keepdim=True).clamp_min(1)
    centred = (values - (values * is_real).sum(1, keepdim=True) / count) * is_real
    return centred / ((centred**2).sum(1, keepdim=True) / count + 1e-8).sqrt()
