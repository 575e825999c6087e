import re
from typing import Any

import pytest
import torch
from torch import nn

from modules.model.alexnet import AlexNet
from modules.model.base import Layered

PUBLISHED: dict[str, Any] = {
    "image_shape": [3, 224, 224], "num_classes": 1000, "conv_channels": [96, 256, 384, 384, 256], "num_groups": 2,
    "stem_size": 11, "stem_stride": 4, "stem_padding": 2, "dense_size": 4096, "response_norm": True, "dropout_prob": 0.5,
    "init_std": 0.01,
}  # fmt: skip
SMALL: dict[str, Any] = PUBLISHED | {
    "image_shape": [3, 15, 17], "num_classes": 7, "conv_channels": [4, 6, 8, 4, 2], "stem_size": 3, "stem_stride": 1,
    "stem_padding": 1, "dense_size": 10,
}  # fmt: skip


def test_alexnet_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        model = AlexNet(**PUBLISHED)
        # Section 3.5 says 60 million; the sum follows from its sizes, and is that of Caffe's bvlc_alexnet.
        assert sum(p.numel() for p in model.parameters()) == 60_965_224
        features = nn.Sequential(*model.layers()[:16])
        assert features(torch.empty(2, 3, 224, 224)).shape == (2, 256 * 6 * 6)
        assert model(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


def test_alexnet_by_other_arguments_is_torchvisions() -> None:
    """It is that of Krizhevsky 2014, arXiv:1404.5997: narrower, in one part, without normalisation."""
    one_tower = {"conv_channels": [64, 192, 384, 256, 256], "num_groups": 1, "response_norm": False}
    with torch.device("meta"):
        model = AlexNet(**PUBLISHED | one_tower)
    assert sum(p.numel() for p in model.parameters()) == 61_100_840


def test_alexnet_is_its_layers_in_turn_for_images_of_any_size() -> None:
    model = AlexNet(**SMALL).eval()
    inputs = outputs = torch.rand(5, 3, 15, 17)
    assert isinstance(model, Layered)
    for layer in model.layers():
        outputs = layer(outputs)
    assert torch.equal(outputs, model(inputs))
    assert outputs.shape == (5, 7)


def test_alexnet_starts_as_the_paper_or_scaled_to_its_inputs() -> None:
    torch.manual_seed(0)
    parts = [part for part in AlexNet(**SMALL).stack if isinstance(part, nn.Conv2d | nn.Linear)]
    biases = [part.bias for part in parts if part.bias is not None]
    assert [sorted(set(bias.tolist())) for bias in biases] == [[0], [1], [0], [1], [1], [1], [1], [0]]
    assert float(parts[5].weight.detach().std()) == pytest.approx(0.01, rel=0.3)
    scaled = [part for part in AlexNet(**SMALL | {"init_std": None}).stack if isinstance(part, nn.Conv2d | nn.Linear)]
    assert float(scaled[6].weight.detach().std()) == pytest.approx((2 / 10) ** 0.5, rel=0.3)
    assert all(not part.bias.any() for part in scaled if part.bias is not None)


def test_alexnet_refuses_sizes_that_make_no_network() -> None:
    with pytest.raises(ValueError, match=re.escape("reduces [15, 17] pixels to 0 with stem_stride=4; lower it")):
        AlexNet(**SMALL | {"stem_stride": 4})
    with pytest.raises(ValueError, match=re.escape("five numbers that num_groups=2 divides, but got [4, 6, 8, 4, 3]")):
        AlexNet(**SMALL | {"conv_channels": [4, 6, 8, 4, 3]})
    with pytest.raises(ValueError, match=re.escape("dense_size=0")):
        AlexNet(**SMALL | {"dense_size": 0})
    with pytest.raises(
        ValueError, match=re.escape("dropout_prob in [0, 1) and stem_padding of at least 0, but got 1.5")
    ):
        AlexNet(**SMALL | {"dropout_prob": 1.5})
