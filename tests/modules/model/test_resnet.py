from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import yaml

from experiments.config.options import groups
from modules.model.base import Layered
from modules.model.resnet import ResidualBlock, ResNet


@pytest.mark.parametrize(("option", "num_parameters"), [("resnet18", 11_689_512), ("resnet50", 25_557_032)])
def test_resnet_has_the_parameters_of_torchvisions(option: str, num_parameters: int) -> None:
    config = yaml.safe_load(groups()["model"][option].read_text())
    del config["_target_"]
    with torch.device("meta"):
        model = ResNet(**config | {"image_shape": [3, 224, 224], "num_classes": 1000})
        assert model(torch.zeros(2, 3, 64, 48)).shape == (2, 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert {"conv1.weight", "layer2.0.downsample.1.running_mean", "layer4.1.bn2.bias", "fc.bias"} <= {
        *model.state_dict()
    }


def test_a_block_adds_its_inputs() -> None:
    block = ResidualBlock(4, 4, 1, "basic").eval()
    inputs = torch.rand(2, 4, 5, 3)
    inner = F.relu(block.get_submodule("bn1")(block.get_submodule("conv1")(inputs)))
    expected = F.relu(block.get_submodule("bn2")(block.get_submodule("conv2")(inner)) + inputs)
    assert torch.equal(block(inputs), expected)
    assert ResidualBlock(4, 3, 2, "bottleneck")(inputs).shape == (2, 12, 3, 2)


def test_resnet_is_its_layers_in_turn_for_images_of_any_size() -> None:
    model = ResNet([2, 9, 7], 3, num_blocks=[1, 2], base_channels=4, stem_size=3, stem_stride=1, stem_pool=False).eval()
    inputs = outputs = torch.rand(2, 2, 9, 7)
    assert isinstance(model, Layered)
    for layer in model.layers():
        outputs = layer(outputs)
    assert torch.equal(outputs, model(inputs))
    assert {id(p) for layer in model.layers() for p in layer.parameters()} == {id(p) for p in model.parameters()}


def test_resnet_refuses_sizes_that_make_no_network() -> None:
    with pytest.raises(
        ValueError, match=r"an odd stem_size, but got num_blocks=\[2, 0\], base_channels=64, stem_size=4"
    ):
        ResNet([3, 8, 8], 10, num_blocks=[2, 0], stem_size=4)
