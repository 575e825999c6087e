"""The three Inception networks: what their papers say, and what they have in common."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from modules.model.base import Layered
from modules.model.bn_inception import BnInception
from modules.model.inception_v1 import InceptionV1
from modules.model.inception_v3 import InceptionV3
from modules.model.layers.inception_blocks import scaled

SMALL: dict[str, Callable[[], nn.Module]] = {
    "v1": partial(InceptionV1, [3, 6, 9], 4, width=0.01, stem_size=3, stem_stride=1, stem_pools=0),
    "bn": partial(BnInception, [3, 6, 9], 4, width=0.01, stem_size=3, stem_stride=1, stem_pools=0),
    "v3": partial(InceptionV3, [3, 20, 23], 4, width=0.01, stem_stride=1, stem_pools=0),
}
SIDES = {"v1": (6, 9), "bn": (6, 9), "v3": (20, 23)}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def sizes(model: nn.Module, image: Tensor) -> dict[str, list[int]]:
    """Channels, height and width after every layer, in evaluation mode."""
    actual, features = {}, image
    for name, layer in model.eval().named_children():
        features = layer(features)
        actual[name] = list(features.shape[1:])
    return actual


def test_inception_v1_has_the_parameters_of_the_paper() -> None:
    """The sums are those of the authors' model in Caffe, bvlc_googlenet; torchvision's has batch normalisation and, where the
    paper has 5x5 filters, 3x3."""
    with torch.device("meta"):
        assert count(InceptionV1([3, 224, 224], 1000)) == 13_378_280
        model = InceptionV1([3, 224, 224], 1000, auxiliary=False)
        assert count(model) == 6_998_552
        # Table 1, in units of 1024, biases left out; others of it do not follow from its own filters.
        for name, message in {"3a": 159, "3b": 380, "4b": 437, "4e": 840}.items():
            weights = sum(p.numel() for p in model.get_submodule(f"inception_{name}").parameters() if p.dim() > 1)
            assert weights / 1024 == pytest.approx(message, rel=0.01), name
        actual = sizes(model, torch.empty(2, 3, 224, 224))
    assert actual["stem_2"] == [192, 28, 28]
    assert [actual[f"inception_{name}"] for name in ("3b", "4a", "4e", "5b")] == [
        [480, 28, 28], [512, 14, 14], [832, 14, 14], [1024, 7, 7],
    ]  # fmt: skip
    assert actual["head"] == [1000]


def test_bn_inception_has_the_parameters_of_its_authors_release() -> None:
    with torch.device("meta"):
        model = BnInception([3, 224, 224], 1000)
        actual = sizes(model, torch.empty(2, 3, 224, 224))
    assert count(model) == 11_188_288
    norms = [part.num_features for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    convolutions = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Conv2d))
    # tensorflow/models, slim/nets/inception_v2_test.py counts 10,173,112 variables below the logits: every normalisation
    # has a shift and two statistics there, but the first convolution a bias instead.
    assert convolutions + 3 * sum(norms) - 2 * norms[0] == 10_173_112
    assert {name: actual[f"inception_{name}"] for name in ("3a", "3b", "3c", "4d", "4e", "5b")} == {
        "3a": [256, 28, 28], "3b": [320, 28, 28], "3c": [576, 14, 14], "4d": [576, 14, 14], "4e": [1024, 7, 7],
        "5b": [1024, 7, 7],
    }  # fmt: skip


def test_inception_v3_has_the_parameters_of_its_authors_release() -> None:
    """Torchvision's are the same: 27,161,264 with the auxiliary classifier, which it counts."""
    with torch.device("meta"):
        assert count(InceptionV3([3, 299, 299], 1000)) == 27_161_264
        model = InceptionV3([3, 299, 299], 1000, auxiliary=False)
        actual = sizes(model, torch.empty(2, 3, 299, 299))
    assert count(model) == 23_834_568
    norms = sum(part.num_features for part in model.modules() if isinstance(part, nn.BatchNorm2d))
    convolutions = sum(part.weight.numel() for part in model.modules() if isinstance(part, nn.Conv2d))
    assert convolutions + 3 * norms == 21_802_784  # slim/nets/inception_v3_test.py, below the logits
    assert [actual[name] for name in ("stem_2", "mixed_5d", "mixed_6e", "mixed_7a", "mixed_7c")] == [
        [192, 35, 35], [288, 35, 35], [768, 17, 17], [1280, 8, 8], [2048, 8, 8],
    ]  # fmt: skip


@pytest.mark.parametrize("name", SMALL)
def test_an_inception_network_is_its_layers_in_turn(name: str) -> None:
    model = SMALL[name]()
    images = torch.rand(5, 3, *SIDES[name])
    assert isinstance(model, Layered)
    assert {id(p) for layer in model.layers() for p in layer.parameters()} == {id(p) for p in model.parameters()}
    for mode in (True, False):
        outputs: Any = images
        torch.manual_seed(0)  # dropout
        for layer in model.train(mode).layers():
            outputs = layer(outputs)
        torch.manual_seed(0)
        torch.testing.assert_close(outputs, model(images))


@pytest.mark.parametrize(("name", "outputs"), [("v1", 3), ("v3", 2), ("bn", 1)])
def test_auxiliary_classifiers_run_only_in_training(name: str, outputs: int) -> None:
    model = SMALL[name]()
    actual = model(torch.rand(5, 3, *SIDES[name]))
    each = cast(tuple[Tensor, ...], actual if isinstance(actual, tuple) else (actual,))
    assert [tuple(logits.shape) for logits in each] == [(5, 4)] * outputs
    assert model.eval()(torch.rand(5, 3, *SIDES[name])).shape == (5, 4)
    sum(logits.sum() for logits in each).backward()  # type: ignore[union-attr]
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_widths_are_multiples_of_8_and_the_published_ones_stay() -> None:
    assert [scaled(channels, 1.0) for channels in (16, 80, 448)] == [16, 80, 448]
    assert [scaled(channels, 0.25) for channels in (16, 80, 448)] == [8, 16, 112]


def test_inception_networks_refuse_sizes_that_make_none() -> None:
    with pytest.raises(ValueError, match=re.escape("InceptionV3 reduces [20, 8] pixels to 0 with stem_stride=1")):
        InceptionV3([3, 20, 8], 4, stem_stride=1, stem_pools=0)
    for kind in (InceptionV1, BnInception, InceptionV3):
        with pytest.raises(ValueError, match=re.escape(f"{kind.__name__} wants width above 0, but got 0; 1.0 is")):
            kind([3, 32, 32], 4, width=0)
        with pytest.raises(ValueError, match=re.escape("num_classes of at least 1, but got [1728] and 4")):
            kind([1728], 4)
        with pytest.raises(ValueError, match=re.escape("stem_pools from 0 to 2, but got")):
            kind([3, 32, 32], 4, stem_pools=3)
    with pytest.raises(ValueError, match=re.escape("every dropout_prob in [0, 1), but got 1.0")):
        InceptionV1([3, 32, 32], 4, aux_dropout_prob=1.0)
