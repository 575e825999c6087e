"""How well a model finds documents: mean average precision and discounted gain, beside those of BM25."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from modules.data.base import IGNORED, InputReader, Split, Tensors
from modules.data.ranking.collection import Collection, Document
from modules.data.ranking.gain import compute_discounts, find_ranks
from modules.data.ranking.query_split import QuerySplit
from modules.evaluator.base import Prediction
from modules.evaluator.outputs import compute_outputs
from modules.objective.ranking_loss import check_scores


@runtime_checkable
class HasCollection(Protocol):
    """A data set of queries about one collection of documents."""

    @property
    def collection(self) -> Collection: ...


class Retrieval:
    """Metrics: ``map``, ``ndcg_at10`` and ``precision_at10``, and each with ``_bm25`` for the order in which the candidates come.

    Means over queries, over all documents as trec_eval has them: behind the candidates come all other documents in their order,
    the gain of a document is its grade, documents without a judgement are not relevant, and a query without a relevant one
    counts 0. `predict` lists the best documents for a query.
    Source: Manning et al. 2008, Introduction to Information Retrieval, section 8.4; Järvelin and Kekäläinen 2002,
    doi:10.1145/582415.582418.
    """

    is_component = True
    headline = ("map", "max")

    def __init__(
        self,
        num_results: int = 5,
        cut: int = 10,
        num_examples_logged: int = 5,
        compared_query: str | None = None,
        compared_documents: Sequence[str] = (),
    ) -> None:
        """
        Args:
            num_results: documents that `predict` lists.
            cut: how many of the first documents count for gain and precision.
            num_examples_logged: queries whose first documents ``results.txt`` shows.
            compared_query, compared_documents: a query and documents of your own, whose scores ``compared.txt`` shows.
        """
        if min(num_results, cut) < 1 or num_examples_logged < 0:
            raise ValueError(
                "Retrieval wants num_results and cut of at least 1 and num_examples_logged of at least 0, but got "
                f"{num_results}, {cut} and {num_examples_logged}"
            )
        if compared_query is not None and not compared_documents:
            raise ValueError(
                f"Retrieval has compared_query={compared_query!r}, but no compared_documents; name some, or set the query to null"
            )
        self.num_results, self.cut, self.num_examples_logged = num_results, cut, num_examples_logged
        self.compared_query, self.compared_documents = compared_query, list(compared_documents)

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Sum over the queries of one batch.

        Args:
            outputs: scores of the candidates, float [batch, candidates].
            targets: grades of the candidates, int64 [batch, candidates], or `IGNORED` for padding; places of the relevant
                documents beyond them, from 0, and their grades, int64 [batch, documents] each, or `IGNORED`.

        Returns:
            float64 [7]: the queries, and the three measures of the scores and of BM25.
        """
        scores, grades = check_scores("Retrieval", outputs, targets)
        if isinstance(targets, Tensor) or len(targets) != 3:
            raise ValueError(
                "Retrieval wants three targets, with the relevant documents beyond the candidates, but got fewer; choose "
                "data=cranfield, or evaluator=ranking"
            )
        _, places, missed = targets
        every = torch.cat([grades, missed], dim=1)
        first = torch.arange(grades.shape[1], device=grades.device).expand_as(grades)
        sums = [
            measure.double().sum()
            for own in (find_ranks(scores, grades), first)
            for measure in compute_measures(torch.cat([own, places], dim=1), every, self.cut)
        ]
        return torch.stack([sums[0].new_tensor(float(len(grades))), *sums])

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the means over queries.

        Raises:
            ValueError: there is no query.
        """
        count, *totals = sums.tolist()
        if count == 0:
            raise ValueError("Retrieval wants at least 1 query, but got 0; evaluate on a split that is not empty")
        names = ("map", f"ndcg_at{self.cut}", f"precision_at{self.cut}")
        each = [f"{name}{end}" for end in ("", "_bm25") for name in names]
        return {name: total / count for name, total in zip(each, totals, strict=True)}

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return ``results.txt``: the first documents for the first queries, by BM25 and by the model; and ``compared.txt``."""
        if not isinstance(split, QuerySplit):
            return {}
        files = dict[str, bytes]()
        if count := min(self.num_examples_logged, len(split)):
            files["results.txt"] = "\n".join(
                self._show_results(model, split, number) for number in range(count)
            ).encode()
        if self.compared_query is not None:
            files["compared.txt"] = self._compare(model, split, self.compared_query).encode()
        return files

    def _show_results(self, model: nn.Module, split: QuerySplit, number: int) -> str:
        index = torch.tensor([number])
        inputs, targets = split.batch(index, index)
        scores, grades = check_scores("Retrieval", compute_outputs(model, inputs), targets)
        order = split.collection.search(split.queries[number]).order
        lines = [f"query: {split.queries[number]}"]
        for name, places in (
            ("BM25", torch.arange(grades.shape[1])),
            ("model", find_ranks(scores, grades)[0].argsort()),
        ):
            for place in places[: self.num_results].tolist():
                if (grade := int(grades[0, place])) != IGNORED:
                    lines.append(f"{name:5}  grade {grade}  {_name(split.collection.documents[order[place]])}")
        return "\n".join([*lines, ""])

    def _compare(self, model: nn.Module, split: QuerySplit, query: str) -> str:
        by_words, inputs = split.collection.compare(query, self.compared_documents)
        scores = compute_outputs(model, inputs)
        assert isinstance(scores, Tensor)
        lines = [f"query: {query}", "   BM25   model  document"]
        for document, words, score in zip(self.compared_documents, by_words, scores[0].tolist(), strict=False):
            lines.append(f"{words:7.2f} {score:7.2f}  {document}")
        return "\n".join([*lines, ""])

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """List the best documents for each query."""
        collection, scores = _check_data(data).collection, compute_outputs(model, data.read(inputs))
        assert isinstance(scores, Tensor)
        predictions = []
        for query, own in zip(inputs, scores, strict=True):
            order = collection.search(query).order[: len(own)]
            best = own[: len(order)].argsort(descending=True, stable=True)[: self.num_results].tolist()
            found = [(collection.documents[order[place]], float(own[place])) for place in best]
            lines = [f"{score:7.2f}  {_name(each)}" for each, score in found]
            details = [{"id": each.id, "title": each.title, "score": score} for each, score in found]
            predictions.append(Prediction("\n".join(lines), {"documents": details}))
        return predictions


def compute_measures(ranks: Tensor, grades: Tensor, cut: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return average precision, nDCG and precision at ``cut`` of each query, float [batch].

    Args:
        ranks: of documents from 0, all relevant ones among them, int64 [batch, documents].
        grades: of the same shape, or `IGNORED` for padding.
        cut: how many of the first documents count.
    """
    relevant = grades > 0
    count = relevant.sum(1).clamp_min(1)
    before = ((ranks[:, None, :] <= ranks[:, :, None]) & relevant[:, None, :]).sum(2)  # relevant documents up to each
    precision = (before / (ranks + 1)) * relevant
    gains = grades.clamp_min(0).float()
    ideal = gains.sort(dim=1, descending=True).values
    places = torch.arange(ranks.shape[1], device=ranks.device).expand_as(ranks)
    gain = (gains * compute_discounts(ranks.clamp_min(0), cut)).sum(1)
    best = (ideal * compute_discounts(places, cut)).sum(1).clamp_min(1e-12)
    return precision.sum(1) / count, gain / best, ((ranks < cut) & relevant).sum(1) / cut


def _name(document: Document) -> str:
    return f"{document.id}  {document.title or document.text[:80]}"


def _check_data(data: object) -> HasCollection:
    if not isinstance(data, HasCollection):
        raise ValueError(
            f"evaluator Retrieval searches a collection of documents, but {type(data).__name__} has none; use data=cranfield"
        )
    return data
