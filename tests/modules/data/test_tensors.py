import re

import pytest
import torch
from torch import Tensor

from modules.data.tensors import TensorSplit, check_image_shape, check_split, scale_pixels
from tests.support.batches import fetch


def test_a_tensor_split_slices_in_the_order_asked_for() -> None:
    split = TensorSplit(torch.arange(21).reshape(7, 3), torch.arange(7) * 10)
    inputs, targets = fetch(split, torch.tensor([6, 0, 6]))
    assert torch.equal(inputs, torch.tensor([[18, 19, 20], [0, 1, 2], [18, 19, 20]]))  # type: ignore[arg-type]
    assert torch.equal(targets, torch.tensor([60, 0, 60]))  # type: ignore[arg-type]
    assert (len(split), split.in_memory) == (7, True)


def test_a_transform_gets_the_batch_and_its_seeds() -> None:
    def shake(inputs: Tensor, seeds: Tensor) -> Tensor:
        return inputs + seeds[:, None]

    split = TensorSplit(torch.zeros(7, 3, dtype=torch.uint8), torch.zeros(7, dtype=torch.int64), shake)
    inputs, _ = split.batch(torch.tensor([1, 2]), torch.tensor([8, 5]))
    assert torch.equal(inputs, torch.tensor([[8] * 3, [5] * 3]))  # type: ignore[arg-type]


def test_scaled_pixels_reach_from_zero_to_one() -> None:
    scaled = scale_pixels(torch.tensor([[0, 51, 255]], dtype=torch.uint8))
    torch.testing.assert_close(scaled, torch.tensor([[0.0, 0.2, 1.0]]))


def test_inputs_and_targets_come_in_pairs() -> None:
    with pytest.raises(ValueError, match="TensorSplit wants as many targets as inputs, but got 3 and 2; pair them"):
        TensorSplit(torch.zeros(2, 5), torch.zeros(3))


def test_shapes_and_splits_are_checked_in_the_users_words() -> None:
    assert check_image_shape("Idx", [1, 4, 6], 24) == (1, 4, 6)
    with pytest.raises(ValueError, match=re.escape("data.image_shape=[1, 4, 6]; set data.num_features=24")):
        check_image_shape("Idx", [1, 4, 6], 23)
    with pytest.raises(ValueError, match=re.escape("Idx wants image_shape as [channels, height, width]")):
        check_image_shape("Idx", [24], 24)
    with pytest.raises(ValueError, match="Idx wants the split 'train', 'val' or 'test', but got 'valid'"):
        check_split("Idx", "valid")
