"""Metrics of numbers and of classes against those of scikit-learn."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from sklearn import metrics as reference
from torch import Tensor

from modules.data.tensors import TensorSplit
from modules.evaluator.classification import Classification
from modules.evaluator.regression import Regression


def draw(num_classes: int, count: int = 300) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    targets = torch.randint(num_classes, (count,), generator=generator)
    logits = torch.randn(count, num_classes, generator=generator)
    return logits + 1.5 * torch.nn.functional.one_hot(targets, num_classes), targets


@pytest.mark.parametrize("num_classes", [2, 3, 12])
def test_classification_agrees_with_scikit_learn(num_classes: int) -> None:
    logits, targets = draw(num_classes)
    evaluator = Classification()
    sums = sum((evaluator.update(logits[i : i + 70], targets[i : i + 70]) for i in range(0, 300, 70)), torch.zeros(1))
    found = evaluator.compute(sums)
    best, probs = logits.argmax(1), logits.double().softmax(1)
    precision, recall, f1, _ = reference.precision_recall_fscore_support(targets, best, average="macro")
    auc = sum(reference.roc_auc_score(targets == c, probs[:, c]) for c in range(num_classes)) / num_classes
    for name, value in {"precision": precision, "recall": recall, "f1": f1}.items():
        assert found[name] == pytest.approx(value, abs=1e-9)
    assert found["accuracy_top1"] == pytest.approx(float((best == targets).double().mean()))
    assert found["auc"] == pytest.approx(auc, abs=1e-3)


def test_calibration_error_of_a_known_case() -> None:
    logits = torch.tensor([[0.8, 0.2]] * 10).log()  # sure to 0.8, right in 6 of 10
    targets = torch.tensor([0] * 6 + [1] * 4)
    evaluator = Classification()
    assert evaluator.compute(evaluator.update(logits, targets))["calibration_error"] == pytest.approx(0.2)


def test_classes_that_do_not_occur_do_not_count() -> None:
    evaluator = Classification()
    found = evaluator.compute(evaluator.update(torch.eye(4)[[0, 1, 1]] * 5, torch.tensor([0, 1, 1])))
    assert found["precision"] == found["recall"] == found["f1"] == found["auc"] == 1
    one = evaluator.compute(evaluator.update(torch.eye(2)[[0, 0]], torch.tensor([0, 0])))
    assert math.isnan(one["auc"])
    with pytest.raises(ValueError, match="at least 1 example"):
        evaluator.compute(torch.zeros(4 + 45 + 4 * 2048))


def test_regression_agrees_with_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(90, 1, generator=generator)
    outputs = targets + 0.3 * torch.randn(90, 1, generator=generator)
    evaluator = Regression(mean=100.0, std=20.0)
    found = evaluator.compute(
        evaluator.update(outputs[:40], targets[:40]) + evaluator.update(outputs[40:], targets[40:])
    )
    true, predicted = targets * 20 + 100, outputs * 20 + 100
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(true, predicted), rel=1e-5)
    assert found["rmse"] == pytest.approx(math.sqrt(reference.mean_squared_error(true, predicted)), rel=1e-5)
    assert found["r2"] == pytest.approx(reference.r2_score(true, predicted), rel=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(evaluator.compute(evaluator.update(torch.ones(3, 1), torch.ones(3, 1)))["r2"])
    for outputs, targets in ((torch.ones(3, 2), torch.ones(3, 1)), (torch.ones(3), torch.ones(3, dtype=torch.int64))):
        with pytest.raises(ValueError, match="Regression wants"):
            evaluator.update(outputs, targets)


class Given(torch.nn.Linear):
    """Its logits are the means of the channels."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3))


def test_the_surest_errors_and_the_confusion_matrix_become_pictures() -> None:
    images = torch.eye(3)[[0, 1, 1, 2]][:, :, None, None].expand(4, 3, 5, 7) * torch.rand(4, 3, 5, 7)
    split: Any = TensorSplit(images, torch.tensor([0, 1, 2, 0]))
    numbered = Classification().artifacts(Given(1, 3), split)
    assert numbered["confusion_matrix.csv"] == b"true \\ predicted,0,1,2\n0,1,0,1\n1,0,1,0\n2,0,1,0\n"
    assert set(numbered) == {"confusion_matrix.csv", "confusion.png", "errors.png"}
    split.class_names = ["cat", "dog", "snake"]
    named = Classification().artifacts(Given(1, 3), split)
    assert all(named[name] != numbered[name] for name in ("confusion.png", "errors.png")), "they have the names"
    right = Classification().artifacts(Given(1, 3), TensorSplit(images, torch.tensor([0, 1, 1, 2])))
    assert "errors.png" not in right
