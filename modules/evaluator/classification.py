"""Metrics of a classifier beside accuracy: precision, recall, F1, area under the curve, calibration, confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.data.base import Split, Tensors
from modules.evaluator.accuracy import Accuracy
from modules.evaluator.outputs import compute_outputs
from modules.evaluator.pictures.confusion import draw_confusion
from modules.evaluator.pictures.photo_rows import Shown, draw_photo_rows

_BATCH, _NUM_ERRORS, _IN_A_ROW, _MAX_DRAWN = 256, 18, 6, 50


class Classification(Accuracy):
    """Metrics: ``accuracy_top1``, ``precision``, ``recall``, ``f1``, ``auc``, ``calibration_error``.

    Precision, recall, F1 and AUC (one class against the others) are means over the classes that occur among the targets, so
    rare classes count as much as frequent ones. A class that is never predicted has precision 0. The AUC is computed from a
    histogram of log-odds, which is exact to about 0.001. The calibration error is the expected difference between the
    probability of the best class and how often it is right, in bins of equal width.
    Sources: Hand and Till 2001, doi:10.1023/A:1010920819831; Guo et al. 2017, arXiv:1706.04599.
    """

    is_component = True
    headline = ("accuracy_top1", "max")

    def __init__(self, num_bins: int = 15, auc_bins: int = 2048, top_k_shown: int = 5) -> None:
        """
        Args:
            num_bins: of the calibration error.
            auc_bins: of the histogram for the AUC.
            top_k_shown: classes that a prediction names, the likeliest.
        """
        super().__init__([1], top_k_shown)
        if num_bins < 1 or auc_bins < 2:
            raise ValueError(
                f"Classification wants num_bins of at least 1 and auc_bins of at least 2, but got {num_bins} and {auc_bins}"
            )
        self.num_bins, self.auc_bins = num_bins, auc_bins

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Count one batch.

        Args:
            outputs: logits, float [batch, classes].
            targets: int64 [batch].

        Returns:
            float64 [classes² + 3 num_bins + 2 classes auc_bins]: the confusion matrix by true and predicted class; examples,
            hits and probabilities by bin; and for each class the histograms of its examples and of the others.

        Raises:
            ValueError: the shapes do not fit.
        """
        super().update(outputs, targets)  # checks the shapes
        assert isinstance(outputs, Tensor)
        assert isinstance(targets, Tensor)
        if outputs.dim() != 2:
            raise ValueError(f"Classification wants logits as [batch, classes], but got {list(outputs.shape)}")
        logits, size = outputs.double(), outputs.shape[1]
        probs, best = logits.softmax(1).max(1)
        confusion = _count(targets * size + best, size * size)
        bins = (probs * self.num_bins).long().clamp(max=self.num_bins - 1)
        hits = (best == targets).double()
        calibration = [_count(bins, self.num_bins, weights) for weights in (None, hits, probs)]
        return torch.cat([confusion, *calibration, self._histograms(logits, targets).flatten()])

    def _histograms(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Histograms of the log-odds of each class, float64 [2, classes, auc_bins]: of its own examples, and of others."""
        size = logits.shape[1]
        log_probs = logits.log_softmax(1)
        odds = log_probs - torch.log1p(-log_probs.exp().clamp(max=1 - 1e-12))
        numbers = ((odds.clamp(-20, 20) + 20) / 40 * (self.auc_bins - 1)).round().long()
        places = (numbers + torch.arange(size, device=logits.device) * self.auc_bins).flatten()
        own = torch.nn.functional.one_hot(targets, size).double().flatten()
        parts = [_count(places, size * self.auc_bins, weights) for weights in (own, 1 - own)]
        return torch.stack(parts).view(2, size, self.auc_bins)

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the metrics.

        Raises:
            ValueError: the sums contain no example.
        """
        rest = len(sums) - 3 * self.num_bins  # classes² + 2 classes auc_bins
        size = round((self.auc_bins**2 + rest) ** 0.5 - self.auc_bins)
        confusion = sums[: size * size].view(size, size)
        examples, hits, probs = sums[size * size :][: 3 * self.num_bins].view(3, self.num_bins)
        own, others = sums[size * size + 3 * self.num_bins :].view(2, size, self.auc_bins)
        total = float(examples.sum())
        if total == 0:
            raise ValueError(
                "Classification wants at least 1 example, but got 0; evaluate on a split that is not empty"
            )
        true, predicted, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
        occurs = true > 0
        precision, recall = right / predicted.clamp(min=1), right / true.clamp(min=1)
        f1 = 2 * right / (true + predicted).clamp(min=1)
        below = others.cumsum(1) - others / 2  # a tie counts as half
        pairs = true * (total - true)
        auc = (own * below).sum(1)[pairs > 0] / pairs[pairs > 0]
        return {
            "accuracy_top1": float(right.sum()) / total,
            "precision": float(precision[occurs].mean()),
            "recall": float(recall[occurs].mean()),
            "f1": float(f1[occurs].mean()),
            "auc": float(auc.mean()) if len(auc) else float("nan"),
            "calibration_error": float((hits - probs).abs().sum()) / total,
        }

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return the confusion matrix of the test split and its surest errors.

        ``confusion_matrix.csv`` has a row for each true class. With at most 50 classes, ``confusion.png`` is a picture of it.
        ``errors.png`` shows the images whose wrong class has the highest probability.
        """
        matrix: Tensor | None = None
        errors = list[tuple[float, Tensor, int, int]]()
        for rows in torch.split(torch.arange(len(split)), _BATCH):
            inputs, targets = split.batch(rows, torch.zeros_like(rows))
            outputs = compute_outputs(model, inputs)
            assert isinstance(outputs, Tensor)
            assert isinstance(targets, Tensor)
            size = outputs.shape[1]
            probs, best = outputs.double().softmax(1).max(1)
            counts = _count(targets * size + best, size * size).view(size, size)
            matrix = counts if matrix is None else matrix + counts
            if isinstance(inputs, Tensor) and inputs.dim() == 4 and inputs.shape[1] in (1, 3):
                wrong = (best != targets).nonzero().flatten().tolist()
                errors += [(float(probs[row]), inputs[row], int(targets[row]), int(best[row])) for row in wrong]
                errors = sorted(errors, key=lambda each: -each[0])[:_NUM_ERRORS]
        if matrix is None:
            return {}
        known = getattr(split, "class_names", None) or ()
        names = [str(name) for name in (known if len(known) == len(matrix) else range(len(matrix)))]
        files = {"confusion_matrix.csv": _make_table(matrix)}
        if len(names) <= _MAX_DRAWN:
            files["confusion.png"] = draw_confusion(matrix, names)
        if errors:
            shown = [
                Shown(image, f"{names[truth]}\nnot {names[guess]} {prob:.2f}") for prob, image, truth, guess in errors
            ]
            rows_shown = [("", shown[first : first + _IN_A_ROW]) for first in range(0, len(shown), _IN_A_ROW)]
            files["errors.png"] = draw_photo_rows(rows_shown)
        return files


def _make_table(matrix: Tensor) -> bytes:
    lines = [",".join(str(int(count)) for count in row) for row in matrix.tolist()]
    head = "true \\ predicted," + ",".join(map(str, range(len(lines))))
    return "\n".join([head, *(f"{number},{line}" for number, line in enumerate(lines))]).encode() + b"\n"


def _count(places: Tensor, size: int, weights: Tensor | None = None) -> Tensor:
    """How often each number below ``size`` occurs, or the sums of the weights at it; float64 [size]."""
    return torch.bincount(places, weights=weights, minlength=size).double()
