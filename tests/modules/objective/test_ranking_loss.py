from itertools import product
from math import exp, log, log2
from typing import Any

import pytest
import torch

from modules.data.base import IGNORED
from modules.objective.ranking_loss import RankingLoss

SCORES = torch.tensor([[0.3, -1.0, 2.0, 9.0], [0.5, 0.1, -0.2, 0.4]])
GRADES = torch.tensor([[2, 0, 1, IGNORED], [1, 1, 1, 1]])


def by_hand(loss: str) -> float:
    """The loss of the first query; the second has no pairs."""
    scores, grades = SCORES[0, :3].tolist(), GRADES[0, :3].tolist()
    gains, discounts = [2**grade - 1 for grade in grades], [1 / log2(3), 1 / log2(4), 1 / log2(2)]  # places 2, 3, 1
    total = 0.0
    for i, j in product(range(3), repeat=2):
        if grades[i] > grades[j]:
            nats = log(1 + exp(scores[j] - scores[i]))
            weight = abs((gains[i] - gains[j]) * (discounts[i] - discounts[j])) / (3 + 1 / log2(3))
            total += nats / 3 if loss == "ranknet" else nats * weight
    return total


@pytest.mark.parametrize("loss", ["ranknet", "lambdarank"])
def test_pairs_of_different_grades_count(loss: Any) -> None:
    mean, metrics = RankingLoss(loss)(SCORES, GRADES)
    assert float(mean) == pytest.approx(by_hand(loss) / 2, rel=1e-5)
    assert float(metrics[f"loss_{loss}"]) == float(mean)


def test_the_softmax_of_the_scores_meets_the_shares_of_the_gains() -> None:
    first = -(3 / 4 * SCORES[0, :3].log_softmax(0)[0] + 1 / 4 * SCORES[0, :3].log_softmax(0)[2])
    second = -SCORES[1].log_softmax(0).mean()
    assert float(RankingLoss("list_softmax")(SCORES, GRADES)[0]) == pytest.approx(float(first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", ["ranknet", "lambdarank", "list_softmax"])
def test_padding_gets_no_gradient_and_a_step_improves_the_order(loss: Any) -> None:
    scores = SCORES.clone().requires_grad_()
    RankingLoss(loss)(scores, GRADES)[0].backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert float(scores.grad[0, 3]) == 0
    assert scores.grad[0, 0] < 0 < scores.grad[0, 1]


def test_what_is_no_score_for_each_document_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"scores and grades as \[batch, documents\], but got \[2, 4, 1\] and \[2, 4\]"
    ):
        RankingLoss()(SCORES[..., None], GRADES)
    with pytest.raises(ValueError, match="choose model=document_scorer"):
        RankingLoss()(SCORES, GRADES.float())
