import re

import pytest
import torch
from torch import nn

from modules.model.base import Layered, Shard
from modules.model.cifar_cnn import CifarCnn


def test_cifar_cnn_has_the_parameters_of_the_tutorial() -> None:
    model = CifarCnn([3, 24, 24], num_classes=10)
    assert sum(p.numel() for p in model.parameters()) == 1_068_298
    assert sum(p.numel() for p in model.state_dict().values()) == 1_068_298


@pytest.mark.parametrize("image_shape", [[3, 24, 24], [1, 9, 14]])
def test_cifar_cnn_takes_images_of_any_size(image_shape: list[int]) -> None:
    assert CifarCnn(image_shape, num_classes=7)(torch.rand(2, *image_shape)).shape == (2, 7)


def test_cifar_cnn_starts_with_the_constants_of_the_tutorial() -> None:
    parts = [layer for layer in CifarCnn([3, 24, 24], 10).layers() if isinstance(layer, nn.Conv2d | nn.Linear)]
    for part, std, bias in zip(parts, [0.05, 0.05, 0.04, 0.04, 1 / 192], [0.0, 0.1, 0.1, 0.1, 0.0], strict=True):
        assert part.bias is not None
        assert (part.bias == bias).all()
        assert part.weight.abs().max().item() <= 2 * std
        # cut at two deviations, a normal keeps 0.88 of its own; TensorFlow does not make up for that either
        assert part.weight.std().item() == pytest.approx(0.88 * std, rel=0.05)


def test_cifar_cnn_is_its_layers_in_turn() -> None:
    model = CifarCnn([3, 8, 8], num_classes=4)
    inputs = outputs = torch.rand(5, 3, 8, 8)
    assert isinstance(model, Layered)
    for layer in model.layers():
        outputs = layer(outputs)
    assert torch.equal(outputs, model(inputs))


def test_cifar_cnn_splits_its_largest_layer() -> None:
    model = CifarCnn([3, 8, 8], num_classes=4, dense_sizes=[6, 5])
    shards = model.shards()
    assert list(shards.values()) == [Shard("column", 6, "dense_sizes[0]"), Shard("row", 6, "dense_sizes[0]")]
    column, row = (model.get_submodule(name) for name in shards)
    assert isinstance(column, nn.Linear)
    assert isinstance(row, nn.Linear)
    assert (column.out_features, row.in_features, row.out_features) == (6, 6, 5)


def test_cifar_cnn_refuses_flat_features_and_other_dense_layers_than_two() -> None:
    with pytest.raises(
        ValueError, match=re.escape("dense_sizes as two sizes of at least 1, but got [6]; the tutorial")
    ):
        CifarCnn([3, 8, 8], num_classes=10, dense_sizes=[6])
    with pytest.raises(ValueError, match=re.escape("num_classes of at least 1, but got [1728] and 10")):
        CifarCnn([1728], num_classes=10)
