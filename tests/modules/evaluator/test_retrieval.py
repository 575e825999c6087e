import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, ndcg_score
from torch import Tensor, nn

from modules.data.base import IGNORED
from modules.data.ranking.judged_documents import JudgedDocuments
from modules.evaluator.search.retrieval import Retrieval
from modules.model.query_matcher import QueryMatcher


def test_the_measures_are_those_of_scikit_learn_over_all_documents() -> None:
    grades = torch.tensor([[0, 3, 1, 0], [0, 0, 2, IGNORED], [0, 0, 0, 0]])
    places = torch.tensor([[5, 7], [IGNORED, IGNORED], [IGNORED, IGNORED]])
    missed = torch.tensor([[2, 4], [IGNORED, IGNORED], [IGNORED, IGNORED]])
    scores = torch.tensor([[0.1, 0.4, 0.2, 0.9], [0.5, 0.4, 0.3, 9.0], [1.0, 2.0, 3.0, 4.0]])
    evaluator = Retrieval(cut=4)
    sums = evaluator.update(scores[:2], (grades[:2], places[:2], missed[:2]))
    metrics = evaluator.compute(sums + evaluator.update(scores[2:], (grades[2:], places[2:], missed[2:])))
    whole = np.array([0, 3, 1, 0, 0, 2, 0, 4])  # in the order of BM25, with the documents beyond the candidates
    ranked = np.array([0.1, 0.4, 0.2, 0.9, -4, -5, -6, -7])
    falling = -np.arange(8.0)
    for end, first, second in (("", ranked, 1 / 3), ("_bm25", falling, 1 / 3)):
        average = average_precision_score(whole > 0, first)
        assert metrics[f"map{end}"] == pytest.approx((average + second) / 3)
        gain = ndcg_score([whole], [first], k=4)
        assert metrics[f"ndcg_at4{end}"] == pytest.approx((gain + 1 / 2) / 3)
    assert metrics["precision_at4"] == pytest.approx((2 / 4 + 1 / 4) / 3)
    with pytest.raises(ValueError, match="at least 1 query"):
        evaluator.compute(torch.zeros(7))
    with pytest.raises(ValueError, match="three targets"):
        evaluator.update(scores, grades)


class ReadsVectors(nn.Module):
    """Scores documents by the product of the vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: tuple[Tensor, ...]) -> Tensor:
        return torch.einsum("bf,bcf->bc", inputs[0], inputs[1]) * self.weight


def test_predictions_and_artifacts_name_the_documents(tmp_path: Path) -> None:
    texts = ["car sale", "automobile market", "car automobile engine", "sale market price", "sea ship", "ship boat sea"]
    rows = [json.dumps({"id": n, "text": text, "title": f"about {text}"}) for n, text in enumerate(texts)]
    for name, content in (("d", "\n".join(rows)), ("q", rows[0] + "\n" + rows[4]), ("j", "0 1 1\n4 4 1\n")):
        (tmp_path / name).write_text(content)
    data = JudgedDocuments(str(tmp_path.parent), tmp_path.name, dict.fromkeys("dqj"), None, 4, 2, 50, min_count=1)
    evaluator = Retrieval(2, 10, 1, "car", ["sea boat", "automobile engine", "car"])
    model = ReadsVectors()
    model.requires_grad_(False)
    one, other = evaluator.predict(model, data, ["sea", "car"])
    assert [each["title"] for each in one.details["documents"]] == ["about sea ship", "about ship boat sea"]
    assert len(other.details["documents"]) == 2
    assert one.text.splitlines()[0].split()[1:] == ["4", "about", "sea", "ship"]
    files = {name: content.decode() for name, content in evaluator.artifacts(model, data.load("test")).items()}
    assert files["results.txt"].splitlines()[:2] == ["query: car sale", "BM25   grade 0  0  about car sale"]
    lines = files["compared.txt"].splitlines()
    assert lines[:2] == ["query: car", "   BM25   model  document"]
    by_words, by_model = ([float(line.split()[column]) for line in lines[2:]] for column in (0, 1))
    assert by_words[0] == by_words[1] == 0 < by_words[2]
    assert by_model[0] < by_model[1]
    QueryMatcher(2, 2, 3, 0.5).eval()(data.read(["car"]))


def test_padding_changes_no_score() -> None:
    torch.manual_seed(0)
    model, is_real = QueryMatcher(5, 2, 3, 0.0), torch.tensor([[True] * 3 + [False] * 2])
    nn.init.normal_(next(model.refine[3].parameters()))
    query, documents, signals = torch.randn(1, 5), torch.randn(1, 5, 5), torch.randn(1, 5, 2)
    whole = model((query, documents, signals, is_real))
    assert torch.allclose(whole[:, :3], model((query, documents[:, :3], signals[:, :3], is_real[:, :3])), atol=1e-6)


def test_wrong_arguments_are_refused() -> None:
    for arguments, message in (((0,), "num_results"), ((5, 10, 5, "car", []), "no compared_documents")):
        with pytest.raises(ValueError, match=message):
            Retrieval(*arguments)
    with pytest.raises(ValueError, match="hidden_size"):
        QueryMatcher(2, 2, 0, 0.0)
