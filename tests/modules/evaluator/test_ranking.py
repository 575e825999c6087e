from itertools import permutations

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from torch import Tensor, nn

from modules.data.base import IGNORED
from modules.data.ranking.gain import compute_ndcg
from modules.data.tensors import TensorSplit
from modules.evaluator.search.ranking import Ranking

GRADES = torch.tensor([[2, 0, 1, 4, 3], [0, 1, 0, IGNORED, IGNORED], [0, 0, 0, 0, IGNORED]])


def test_the_gain_is_that_of_scikit_learn() -> None:
    scores = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    for cut in (1, 3, 10):
        first = ndcg_score([2.0 ** GRADES[0].numpy() - 1], [scores[0].numpy()], k=cut)
        second = ndcg_score([2.0 ** GRADES[1, :3].numpy() - 1], [scores[1, :3].numpy()], k=cut)
        assert compute_ndcg(scores, GRADES, cut).tolist() == pytest.approx([first, second, 0.0], abs=1e-6)


def test_sums_add_up_to_means_over_queries_beside_those_of_a_random_order() -> None:
    evaluator, scores = Ranking([1, 3]), torch.randn(3, 5, generator=torch.Generator().manual_seed(1))
    sums = evaluator.update(scores[:2], GRADES[:2]) + evaluator.update(scores[2:], GRADES[2:])
    metrics = evaluator.compute(sums)
    assert list(metrics) == ["ndcg_at1", "ndcg_at3", "ndcg_at1_random", "ndcg_at3_random"]
    assert metrics["ndcg_at3"] == pytest.approx(float(compute_ndcg(scores, GRADES, 3).mean()))
    orders = torch.tensor([*permutations(range(5))]).float()
    drawn = compute_ndcg(orders, GRADES[:1].expand(len(orders), -1), 3).mean()
    short = torch.tensor([*permutations(range(3))]).float()
    other = compute_ndcg(short, GRADES[1:2, :3].expand(len(short), -1), 3).mean()
    assert metrics["ndcg_at3_random"] == pytest.approx(float(drawn + other) / 3, rel=1e-5)
    with pytest.raises(ValueError, match="at least 1 query"):
        evaluator.compute(torch.zeros(5))


class ReadsOne(nn.Module):
    """Scores documents by their second signal."""

    def forward(self, documents: Tensor) -> Tensor:
        return documents[..., 1]


def test_the_signal_that_matters_comes_first() -> None:
    grades = torch.from_numpy(np.random.RandomState(0).randint(0, 4, (20, 6)))
    documents = torch.rand(20, 6, 3, generator=torch.Generator().manual_seed(0))
    documents[..., 1] = grades.float()
    lines = Ranking().artifacts(ReadsOne(), TensorSplit(documents, grades))["signals.tsv"].decode().splitlines()
    assert lines[0] == "place\tsignal\tdrop of ndcg_at10 from 1.0000"
    assert [line.split("\t")[:2] for line in lines[1:]] == [["1", "1"], ["2", "0"], ["3", "2"]]
    assert float(lines[1].split("\t")[2]) > 0.1 > float(lines[2].split("\t")[2]) == 0


def test_wrong_cuts_are_refused() -> None:
    for cuts in ([], [0], [1, 1]):
        with pytest.raises(ValueError, match="cuts as different numbers"):
            Ranking(cuts)
