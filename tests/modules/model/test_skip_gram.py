from __future__ import annotations

import pytest
import torch

from modules.model.base import HasEmbeddings
from modules.model.skip_gram import SkipGram, near


def test_near_is_the_product_with_every_vector_within_the_window() -> None:
    left, right = torch.randn(2, 2, 5, 3, generator=torch.Generator().manual_seed(0))
    actual = near(left, right, window=2)
    for time in range(5):
        for column, distance in enumerate(range(-2, 3)):
            other = time + distance
            expected = (left[:, time] * right[:, other]).sum(1) if 0 <= other < 5 else torch.zeros(2)
            torch.testing.assert_close(actual[:, time, column], expected)


def test_the_gradients_of_near_are_right() -> None:
    left, right = (
        torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)
        for seed in (0, 1)
    )
    assert torch.autograd.gradcheck(lambda one, two: near(one, two, 2), (left, right))


@pytest.mark.parametrize("sparse", [True, False])
def test_gradients_hold_only_the_rows_of_a_batch_where_they_are_sparse(sparse: bool) -> None:
    torch.manual_seed(0)
    model = SkipGram(vocab_size=50, embedding_size=4, window=2, sparse_gradients=sparse)
    torch.nn.init.normal_(model.around.weight)
    close, far = model((torch.tensor([[3, 7, 3]]), torch.tensor([[9, 20]])))
    assert (close.shape, far.shape) == ((1, 3, 5), (1, 3, 2))
    (close.sum() + far.sum()).backward()
    for table, rows in ((model.words, [3, 7]), (model.around, [3, 7, 9, 20])):
        gradient = table.weight.grad
        assert gradient is not None
        assert gradient.is_sparse == sparse
        touched = gradient.to_dense().abs().sum(1).nonzero().flatten().tolist()
        assert touched == rows


def test_its_vectors_are_those_of_the_words() -> None:
    model = SkipGram(50, 4, 2, sparse_gradients=True)
    assert isinstance(model, HasEmbeddings)
    assert model.word_vectors() is model.words.weight
    assert model.words.weight.abs().max() <= 0.5 / 4


def test_wrong_sizes_are_reported() -> None:
    with pytest.raises(ValueError, match="SkipGram wants vocab_size, embedding_size and window of at least 1"):
        SkipGram(5, 0, 2, True)
