import math
import re

import pytest
import torch

from modules.data.base import IGNORED
from modules.evaluator.perplexity import Perplexity


def test_perplexity_of_equal_logits_is_the_number_of_classes() -> None:
    sums = Perplexity().update(torch.zeros(2, 3, 5), torch.tensor([[4, 0, 1], [2, 2, 3]]))
    assert sums.dtype == torch.float64
    assert sums.tolist() == pytest.approx([6, 6 * math.log(5)])
    assert Perplexity().compute(sums) == {"perplexity": pytest.approx(5)}


def test_perplexity_is_the_inverse_geometric_mean_of_the_targets_probabilities() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.randint(5, (2, 3))
    chosen = logits.softmax(-1).gather(-1, targets.unsqueeze(-1)).double()
    actual = Perplexity().compute(Perplexity().update(logits, targets))
    assert actual["perplexity"] == pytest.approx(float(chosen.prod()) ** (-1 / 6), rel=1e-5)


def test_ignored_words_do_not_count_and_of_several_targets_the_first_does() -> None:
    logits, targets = torch.randn(2, 3, 5), torch.tensor([[4, 0, IGNORED], [2, IGNORED, IGNORED]])
    sums = Perplexity().update(logits, (targets, torch.tensor([7, 8])))
    torch.testing.assert_close(sums, Perplexity().update(logits[[0, 0, 1], [0, 1, 0]], torch.tensor([4, 0, 2])))


def test_perplexity_of_two_batches_is_that_of_both_together() -> None:
    logits, targets = torch.randn(5, 3, 7), torch.randint(7, (5, 3))
    measure = Perplexity().update
    apart = measure(logits[:2], targets[:2]) + measure(logits[2:], targets[2:])
    torch.testing.assert_close(apart, measure(logits, targets))


def test_perplexity_takes_one_target_an_example_and_low_precision() -> None:
    logits, targets = torch.randn(4, 5), torch.randint(5, (4,))
    low = Perplexity().update(logits.bfloat16(), targets)
    torch.testing.assert_close(low, Perplexity().update(logits.bfloat16().float(), targets))


def test_perplexity_of_a_model_that_diverged_is_infinite_and_no_error() -> None:
    assert Perplexity().compute(torch.tensor([1.0, 800.0], dtype=torch.float64)) == {"perplexity": math.inf}


def test_perplexity_refuses_other_shapes_and_empty_sums() -> None:
    with pytest.raises(
        ValueError, match=re.escape("but got [2, 3, 5] and [2, 5]; end the model in one logit per class")
    ):
        Perplexity().update(torch.zeros(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match=re.escape("but got [5] and []")):
        Perplexity().update(torch.zeros(5), torch.tensor(1))
    with pytest.raises(ValueError, match="but got a tuple; pick one"):
        Perplexity().update((torch.zeros(2, 5),), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="Perplexity wants at least 1 target, but got 0"):
        Perplexity().compute(torch.zeros(2, dtype=torch.float64))
