import re

import pytest
import torch

from modules.model.base import Layered
from modules.model.mlp import Mlp


def test_mlp_maps_images_through_hidden_layers_of_any_size() -> None:
    model = Mlp(num_features=15, num_classes=4, hidden_sizes=[7, 11], dropout_prob=0.0)
    assert model(torch.rand(2, 1, 3, 5)).shape == (2, 4)
    assert sum(p.numel() for p in model.parameters()) == 16 * 7 + 8 * 11 + 12 * 4


def test_mlp_without_hidden_layers_is_linear() -> None:
    model = Mlp(num_features=3, num_classes=2, hidden_sizes=[], dropout_prob=0.0)
    one, two = torch.rand(2, 5, 3)
    torch.testing.assert_close(model(one) + model(two), model(one + two) + model(torch.zeros(5, 3)))


def test_mlp_drops_units_only_in_training() -> None:
    model = Mlp(num_features=3, num_classes=2, hidden_sizes=[50], dropout_prob=0.5)
    inputs = torch.rand(5, 3)
    assert not torch.equal(model(inputs), model(inputs))
    model.eval()
    assert torch.equal(model(inputs), model(inputs))


def test_mlp_is_its_layers_in_turn() -> None:
    model = Mlp(num_features=6, num_classes=4, hidden_sizes=[7], dropout_prob=0.0)
    inputs = outputs = torch.rand(5, 2, 3)
    assert isinstance(model, Layered)
    for layer in model.layers():
        outputs = layer(outputs)
    assert torch.equal(outputs, model(inputs))


@pytest.mark.parametrize(
    ("hidden_sizes", "dropout_prob", "message"),
    [
        ([7, 0], 0.0, "Mlp wants num_features, num_classes and hidden_sizes of at least 1, but got 3, 2 and [7, 0]"),
        ([7], 1.0, "Mlp wants dropout_prob in [0, 1), but got 1.0"),
    ],
)
def test_mlp_refuses_wrong_arguments(hidden_sizes: list[int], dropout_prob: float, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Mlp(num_features=3, num_classes=2, hidden_sizes=hidden_sizes, dropout_prob=dropout_prob)
