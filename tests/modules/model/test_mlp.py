import re

import pytest
import torch
from torch import nn

from modules.model.base import Layered, Shard, Shardable
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
    ("hidden_sizes", "shards"),
    [
        ([], {"stack.1": Shard("classes", 4, "num_classes")}),
        ([6], {"stack.1": Shard("column", 6, "hidden_sizes[0]"), "stack.4": Shard("row", 6, "hidden_sizes[0]")}),
        (
            [6, 8],
            {
                "stack.1": Shard("column", 6, "hidden_sizes[0]"),
                "stack.4": Shard("row", 6, "hidden_sizes[0]"),
                "stack.7": Shard("classes", 4, "num_classes"),
            },
        ),
        (
            [6, 8, 10],
            {
                "stack.1": Shard("column", 6, "hidden_sizes[0]"),
                "stack.4": Shard("row", 6, "hidden_sizes[0]"),
                "stack.7": Shard("column", 10, "hidden_sizes[2]"),
                "stack.10": Shard("row", 10, "hidden_sizes[2]"),
            },
        ),
    ],
)
def test_mlp_splits_outputs_and_inputs_in_turn(hidden_sizes: list[int], shards: dict[str, Shard]) -> None:
    model = Mlp(num_features=3, num_classes=4, hidden_sizes=hidden_sizes, dropout_prob=0.0)
    assert isinstance(model, Shardable)
    assert model.shards() == shards
    assert shards.keys() == {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}


def test_mlps_slices_add_up_to_the_whole() -> None:
    model = Mlp(num_features=3, num_classes=4, hidden_sizes=[6], dropout_prob=0.0)
    column, row = model.get_submodule("stack.1"), model.get_submodule("stack.4")
    assert isinstance(column, nn.Linear)
    assert isinstance(row, nn.Linear)
    inputs = torch.rand(5, 3)
    total = row.bias.expand(5, 4)
    for own in (slice(0, 2), slice(2, 4), slice(4, 6)):
        part = torch.relu(inputs @ column.weight[own].T + column.bias[own])
        total = total + part @ row.weight[:, own].T
    torch.testing.assert_close(total, model(inputs))


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
