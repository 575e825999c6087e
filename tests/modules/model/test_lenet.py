import re

import pytest
import torch
from torch import nn

from modules.model.base import Layered, Shard
from modules.model.lenet import LeNet


def _small(image_shape: list[int], dropout_prob: float = 0.0) -> LeNet:
    return LeNet(image_shape, num_classes=4, conv_channels=[3, 6], hidden_size=7, dropout_prob=dropout_prob)


def test_lenet_has_the_parameters_of_the_tutorial() -> None:
    model = LeNet([1, 28, 28], num_classes=10, conv_channels=[32, 64], hidden_size=1024, dropout_prob=0.5)
    assert sum(p.numel() for p in model.parameters()) == 3_274_634


@pytest.mark.parametrize("image_shape", [[1, 8, 8], [2, 9, 13], [3, 1, 5]])
def test_lenet_takes_images_of_any_size(image_shape: list[int]) -> None:
    assert _small(image_shape)(torch.rand(5, *image_shape)).shape == (5, 4)


def test_lenet_starts_with_the_constants_of_the_tutorial() -> None:
    for name, parameter in _small([1, 8, 8]).named_parameters():
        if name.endswith("bias"):
            assert (parameter == 0.1).all()
        else:
            assert 0 < parameter.abs().max() <= 0.2


def test_lenet_is_its_layers_in_turn() -> None:
    model = _small([2, 9, 13])
    inputs = outputs = torch.rand(5, 2, 9, 13)
    assert isinstance(model, Layered)
    for layer in model.layers():
        outputs = layer(outputs)
    assert torch.equal(outputs, model(inputs))


def test_lenet_splits_its_dense_layer() -> None:
    model = _small([2, 9, 13])
    shards = model.shards()
    assert list(shards.values()) == [Shard("column", 7, "hidden_size"), Shard("row", 7, "hidden_size")]
    assert shards.keys() == {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def test_lenet_refuses_flat_features_and_certain_dropout() -> None:
    with pytest.raises(ValueError, match=re.escape("image_shape=[64], num_classes=4, conv_channels=[3, 6]")):
        _small([64])
    with pytest.raises(ValueError, match=re.escape("LeNet wants dropout_prob in [0, 1), but got 1.0")):
        _small([1, 8, 8], dropout_prob=1.0)
