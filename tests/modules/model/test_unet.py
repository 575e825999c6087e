import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.model.unet import UNet, Up


def unet(**changed: Any) -> UNet:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "image_shape": [3, 8, 8], "num_classes": 5, "base_channels": 4, "num_levels": 3, "num_groups": 2
    }  # fmt: skip
    return UNet(**(given | changed))


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 1), (13, 6)])
def test_every_pixel_of_a_photo_of_any_size_is_scored(size: tuple[int, int]) -> None:
    assert unet()(torch.randn(2, 3, *size)).shape == (2, *size, 5)


@pytest.mark.parametrize("num_levels", [1, 2, 4])
def test_its_layers_in_turn_are_its_forward_pass(num_levels: int) -> None:
    model = unet(num_levels=num_levels)
    images = torch.randn(2, 3, 10, 11)
    states: Any = images
    for layer in model.layers():
        states = layer(states)
    assert isinstance(states, Tensor)
    assert torch.equal(states, model(images))
    held = [parameter for layer in model.layers() for parameter in layer.parameters()]
    assert len(model.layers()) == 2 * num_levels
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in model.parameters()}


def test_the_papers_sizes_have_its_number_of_parameters() -> None:
    """31,030,658 is what other implementations of padded, plain convolutions count with 1 channel and 2 classes; a convolution
    has here no bias but a norm with scale and shift, one number a channel more."""
    model = unet(image_shape=[1, 572, 572], num_classes=2, base_channels=64, num_levels=5, num_groups=8)
    norms = 2 * (64 + 128 + 256 + 512) * 2 + 2 * 1024
    assert sum(parameter.numel() for parameter in model.parameters()) == 31_030_658 + norms


def test_skip_connections_bring_what_pooling_loses() -> None:
    """With nothing from below, scores at full size still say where an image was bright."""
    model = unet(num_levels=4)
    images = torch.zeros(1, 3, 8, 8)
    images[0, :, 5, 6] = 9.0
    for up in model.up:
        assert isinstance(up, Up)
        nn.init.zeros_(up.grow.weight)
    assert (model(images) - model(images.flip(3))).abs().max() > 0.1


def test_examples_of_a_batch_do_not_see_each_other() -> None:
    model, images = unet(), torch.randn(3, 3, 9, 10)
    torch.testing.assert_close(model(images)[1:2], model(images[1:2]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_levels": 0}, "num_levels of at least 1, but got [3, 8, 8], 5, 4 and 0"),
        ({"num_groups": 3}, "wants base_channels as a multiple of num_groups, but got 4 and 3"),
        ({"image_shape": [3, 8]}, "wants image_shape as [channels, height, width]"),
    ],
)
def test_a_wrong_size_is_reported(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        unet(**changed)
