import re

import pytest
import torch

from modules.evaluator.accuracy import Accuracy

LOGITS = torch.tensor([[0.1, 0.9, 0.5, 0.2], [0.8, 0.1, 0.3, 0.6], [0.1, 0.2, 0.3, 0.4]])
TARGETS = torch.tensor([1, 3, 0])  # first, second and last


def test_accuracy_counts_the_right_class_among_the_k_best() -> None:
    accuracy = Accuracy(top_k=[1, 2, 4])
    sums = accuracy.update(LOGITS, TARGETS)
    assert sums.dtype == torch.float64
    assert sums.tolist() == [3, 1, 2, 3]
    assert accuracy.compute(sums) == {"accuracy_top1": 1 / 3, "accuracy_top2": 2 / 3, "accuracy_top4": 1.0}


def test_accuracy_of_two_batches_is_that_of_both_together() -> None:
    accuracy = Accuracy(top_k=[2, 1])
    apart = accuracy.update(LOGITS[:2], TARGETS[:2]) + accuracy.update(LOGITS[2:], TARGETS[2:])
    assert torch.equal(apart, accuracy.update(LOGITS, TARGETS))
    assert accuracy.compute(apart) == {"accuracy_top2": 2 / 3, "accuracy_top1": 1 / 3}


def test_accuracy_counts_every_word_of_every_text() -> None:
    accuracy = Accuracy(top_k=[1, 2])
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    sums = accuracy.update(logits, targets)
    assert sums.tolist() == accuracy.update(logits.flatten(0, 1), targets.flatten()).tolist()
    assert sums[0] == 6


def test_accuracy_refuses_more_than_there_are_classes() -> None:
    with pytest.raises(ValueError, match=re.escape("evaluator.top_k=[1, 5] is more than the model's 4 classes")):
        Accuracy(top_k=[1, 5]).update(LOGITS, TARGETS)


@pytest.mark.parametrize("top_k", [[], [0], [1, 1]])
def test_accuracy_refuses_a_useless_k(top_k: list[int]) -> None:
    with pytest.raises(ValueError, match="Accuracy wants top_k as different numbers of at least 1"):
        Accuracy(top_k)


def test_accuracy_refuses_other_shapes_and_empty_sums() -> None:
    accuracy = Accuracy(top_k=[1])
    with pytest.raises(ValueError, match=re.escape("but got [3, 4] and [3, 1]")):
        accuracy.update(LOGITS, TARGETS[:, None])
    with pytest.raises(
        ValueError, match=re.escape("but got [2, 3, 5] and [2, 5]; end the model in one logit per class")
    ):
        accuracy.update(torch.zeros(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="but got a tuple; pick one"):
        accuracy.update((LOGITS,), TARGETS)
    with pytest.raises(ValueError, match="Accuracy wants at least 1 example, but got 0"):
        accuracy.compute(torch.zeros(2, dtype=torch.float64))
