"""Losses that put the documents of a query into the order of their grades."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from modules.data.base import IGNORED, Tensors
from modules.data.ranking.gain import compute_discounts, compute_gains, compute_ideal, find_ranks


class RankingLoss:
    """A loss of scores of documents, a mean over queries. In the first two, a query whose documents have one grade adds 0.

    ranknet: the mean, over pairs of different grades, of the cross entropy that the better document has the higher score.
    Source: Burges et al. 2005, doi:10.1145/1102351.1102363.
    lambdarank: the sum over these pairs, each weighted by how much nDCG changes if the two change places. Source: Burges 2010,
    MSR-TR-2010-82.
    list_softmax: the cross entropy between the shares of the gains and the softmax of the scores. Source: Cao et al. 2007,
    doi:10.1145/1273496.1273513 (ListNet), where the shares are the softmax of scores.
    """

    is_component = True

    def __init__(self, loss: Literal["ranknet", "lambdarank", "list_softmax"] = "lambdarank") -> None:
        """
        Args:
            loss: of one query.
        """
        self.loss = loss

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over queries.

        Args:
            outputs: scores, float [batch, documents].
            targets: grades, int64 [batch, documents], or `IGNORED` for padding; of several, the first.

        Returns:
            The loss, float [], and the same detached as ``loss_ranknet``, ``loss_lambdarank`` or ``loss_list_softmax``.

        Raises:
            ValueError: the shapes differ.
        """
        outputs, grades = check_scores("RankingLoss", outputs, targets)
        scores = outputs.float()
        of_queries = self._list_softmax(scores, grades) if self.loss == "list_softmax" else self._pairs(scores, grades)
        mean = of_queries.mean()
        return mean, {f"loss_{self.loss}": mean.detach()}

    def _pairs(self, scores: Tensor, grades: Tensor) -> Tensor:
        is_real = grades != IGNORED
        is_better = (grades[:, :, None] > grades[:, None, :]) & is_real[:, :, None] & is_real[:, None, :]
        nats = functional.softplus(scores[:, None, :] - scores[:, :, None]) * is_better
        if self.loss == "ranknet":
            return nats.sum((1, 2)) / is_better.sum((1, 2)).clamp_min(1)
        gain, discount = compute_gains(grades), compute_discounts(find_ranks(scores.detach(), grades))
        change = (gain[:, :, None] - gain[:, None, :]) * (discount[:, :, None] - discount[:, None, :])
        return (nats * change.abs()).sum((1, 2)) / compute_ideal(grades).clamp_min(1e-12)

    def _list_softmax(self, scores: Tensor, grades: Tensor) -> Tensor:
        gain = compute_gains(grades)
        shares = gain / gain.sum(1, keepdim=True).clamp_min(1e-12)
        logs = scores.masked_fill(grades == IGNORED, -1e9).log_softmax(1)
        return -(shares * logs).sum(1)


def check_scores(owner: str, outputs: Tensors, targets: Tensors) -> tuple[Tensor, Tensor]:
    """Return scores and grades; of several targets, the grades are the first.

    Raises:
        ValueError: they are not a score and a grade for each document.
    """
    grades = targets if isinstance(targets, Tensor) else targets[0]
    if (
        not isinstance(outputs, Tensor)
        or outputs.dim() != 2
        or outputs.shape != grades.shape
        or grades.is_floating_point()
    ):
        shapes = [list(each.shape) if isinstance(each, Tensor) else "a tuple" for each in (outputs, grades)]
        raise ValueError(
            f"{owner} wants scores and grades as [batch, documents], but got {shapes[0]} and {shapes[1]}; choose "
            "model=document_scorer and data of queries with documents"
        )
    return outputs, grades
