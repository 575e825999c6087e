import pytest
import torch

from modules.model.layers.same_pool import SameMaxPool


def _by_hand(row: list[float], window_size: int, stride: int) -> list[float]:
    """TensorFlow's rule: https://www.tensorflow.org/api_docs/python/tf/nn#notes_on_padding_2."""
    num_windows = -(-len(row) // stride)
    before = max(0, (num_windows - 1) * stride + window_size - len(row)) // 2
    starts = [number * stride - before for number in range(num_windows)]
    return [max(row[max(0, start) : start + window_size]) for start in starts]


@pytest.mark.parametrize(("window_size", "stride"), [(2, 2), (3, 2), (3, 1), (2, 1), (5, 3), (1, 1)])
@pytest.mark.parametrize("size", [1, 4, 5, 6, 7, 12])
def test_same_pool_puts_the_border_where_tensorflow_does(size: int, window_size: int, stride: int) -> None:
    row = (-torch.rand(size)).tolist()
    want = torch.tensor(_by_hand(row, window_size, stride))
    pool = SameMaxPool(window_size, stride)
    assert torch.equal(pool(torch.tensor(row).repeat(2, 3, 9, 1))[1, 2, 0], want)
    assert torch.equal(pool(torch.tensor(row)[:, None].repeat(2, 3, 1, 8))[1, 2, :, 0], want)


def test_same_pool_halves_every_side_rounded_up() -> None:
    assert SameMaxPool(3, 2)(torch.rand(2, 5, 7, 24)).shape == (2, 5, 4, 12)


def test_same_pool_refuses_a_stride_that_skips_pixels() -> None:
    with pytest.raises(ValueError, match="SameMaxPool wants 1 <= stride <= window_size, but got 3 and 2"):
        SameMaxPool(2, 3)
