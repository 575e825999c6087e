"""Quality of the order of documents: normalised discounted cumulative gain."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.data.base import IGNORED, Split, Tensors
from modules.data.ranking.gain import compute_ndcg, compute_random_ndcg
from modules.objective.ranking_loss import check_scores


class Ranking:
    """Metrics: ``ndcg_at10`` etc., and ``ndcg_at10_random`` of a random order.

    Means over queries; a query without a relevant document counts 0, where LightGBM counts 1. After training, a table shows which
    signals matter most.
    """

    is_component = True
    headline = ("ndcg_at10", "max")

    def __init__(self, cuts: Sequence[int] = (1, 3, 5, 10)) -> None:
        """
        Args:
            cuts: how many of the first documents count.
        """
        if not cuts or min(cuts) < 1 or len(set(cuts)) < len(cuts):
            raise ValueError(f"Ranking wants cuts as different numbers of at least 1, but got {list(cuts)}")
        self.cuts = tuple(cuts)

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Sum over the queries of one batch.

        Args:
            outputs: scores, float [batch, documents].
            targets: grades, int64 [batch, documents], or `IGNORED` for padding.

        Returns:
            float64 [1 + 2 * cuts]: the queries, nDCG at every cut, and that of a random order.
        """
        scores, grades = check_scores("Ranking", outputs, targets)
        own = [compute_ndcg(scores, grades, cut).double().sum() for cut in self.cuts]
        random = [compute_random_ndcg(grades, cut).double().sum() for cut in self.cuts]
        return torch.stack([own[0].new_tensor(float(len(grades))), *own, *random])

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the means over queries.

        Raises:
            ValueError: there is no query.
        """
        count, *totals = sums.tolist()
        if count == 0:
            raise ValueError("Ranking wants at least 1 query, but got 0; evaluate on a split that is not empty")
        names = [f"ndcg_at{cut}{end}" for end in ("", "_random") for cut in self.cuts]
        return {name: total / count for name, total in zip(names, totals, strict=True)}

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return ``signals.tsv``: how far nDCG at the last cut falls if a signal is shuffled over all documents.

        Source: Breiman 2001, doi:10.1023/A:1010933404324, section 10.
        """
        indices = torch.arange(len(split))
        documents, grades = split.batch(indices, torch.zeros_like(indices))
        assert isinstance(documents, Tensor)
        assert isinstance(grades, Tensor)
        cut, is_real = self.cuts[-1], grades != IGNORED
        before = float(compute_ndcg(model(documents), grades, cut).mean())
        generator, drops = torch.Generator().manual_seed(0), list[tuple[float, int]]()
        for signal in range(documents.shape[2]):
            values = documents[..., signal][is_real]
            shuffled = documents.clone()
            shuffled[..., signal][is_real] = values[torch.randperm(len(values), generator=generator)]
            drops.append((before - float(compute_ndcg(model(shuffled), grades, cut).mean()), signal))
        table = io.StringIO()
        print(f"place\tsignal\tdrop of ndcg_at{cut} from {before:.4f}", file=table)
        for place, (drop, signal) in enumerate(sorted(drops, key=lambda each: (-each[0], each[1])), start=1):
            print(f"{place}\t{signal}\t{drop:.4f}", file=table)
        return {"signals.tsv": table.getvalue().encode()}
