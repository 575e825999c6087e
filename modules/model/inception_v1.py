"""GoogLeNet, the first Inception network and winner of the ImageNet challenge of 2014."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.data.base import Tensors
from modules.model.layers.auxiliary import Auxiliary, OnFirst
from modules.model.layers.inception_blocks import Branches, ConvUnit, check_images, classifier, scaled
from modules.model.layers.response_norm import ResponseNorm
from modules.model.layers.same_pool import SameMaxPool

# Filters of every module: 1x1; 1x1 before 3x3, 3x3; 1x1 before 5x5, 5x5; 1x1 after the pool. Table 1 of the paper.
MODULES = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


class InceptionV1(nn.Module):
    """Nine Inception modules, with two auxiliary classifiers in training.

    As published, on 224x224 with 1,000 classes, it has 6,998,552 parameters, and 13,378,280 with the auxiliary classifiers.
    Source: Szegedy et al. 2014, arXiv:1409.4842.
    """

    is_component = True

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        width: float = 1.0,
        stem_size: int = 7,
        stem_stride: int = 2,
        stem_pools: int = 2,
        auxiliary: bool = True,
        dropout_prob: float = 0.4,
        aux_dropout_prob: float = 0.7,
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width].
            num_classes: logits per image.
            width: multiple of the published numbers of channels.
            stem_size: kernel size of the first convolution; odd.
            stem_stride: stride of the first convolution.
            stem_pools: number of pools before the first module, each of which halves the image: 2, 1 or 0.
            auxiliary: add auxiliary classifiers after the modules 4a and 4d, for training.
            dropout_prob: dropout before the logits.
            aux_dropout_prob: dropout in the auxiliary classifiers.
        """
        super().__init__()
        check_images("InceptionV1", image_shape, num_classes, width, dropout_prob, aux_dropout_prob)
        if stem_size % 2 == 0 or min(stem_size, stem_stride) < 1 or not 0 <= stem_pools <= 2:
            raise ValueError(
                f"InceptionV1 wants an odd stem_size, stem_stride of at least 1 and stem_pools from 0 to 2, but got "
                f"{stem_size}, {stem_stride} and {stem_pools}; the paper has 7, 2 and 2"
            )
        channels, *sides = image_shape
        first, second = scaled(64, width), scaled(192, width)
        self.add_module("stem_1", nn.Sequential(
            _conv(channels, first, stem_size, stem_stride),
            *([SameMaxPool(3, 2)] if stem_pools == 2 else []),
            _response_norm(first),
        ))  # fmt: skip
        self.add_module("stem_2", nn.Sequential(
            _conv(first, first, 1),
            _conv(first, second, 3),
            _response_norm(second),
            *([SameMaxPool(3, 2)] if stem_pools else []),
        ))  # fmt: skip
        for stride in (stem_stride, *[2] * stem_pools):
            sides = [-(-side // stride) for side in sides]
        below = second
        for name, published in MODULES.items():
            if name in ("4a", "5a"):
                self.add_module(f"pool_{name[0]}", OnFirst(SameMaxPool(3, 2)))
                sides = [-(-side // 2) for side in sides]
            filters = [scaled(number, width) for number in published]
            self.add_module(f"inception_{name}", OnFirst(_inception(below, filters)))
            below = filters[0] + filters[2] + filters[4] + filters[5]
            if auxiliary and name in ("4a", "4d"):
                head = _auxiliary_head(below, sides, num_classes, width, aux_dropout_prob)
                self.add_module(f"auxiliary_{name}", Auxiliary(head))
        self.add_module("head", OnFirst(classifier(below, num_classes, dropout_prob)))

    def layers(self) -> list[nn.Module]:
        return list(self.children())

    def forward(self, images: Tensor) -> Tensors:
        """Score the classes.

        Args:
            images: float [batch, channels, height, width], about mean 0.

        Returns:
            Logits, float [batch, num_classes]; in training with auxiliary classifiers a tuple of three: the logits of the
            last layer, of the lower classifier and of the upper classifier.
        """
        states: Tensors = images
        for layer in self.children():
            states = layer(states)
        return states


def _conv(below: int, above: int, kernel_size: int, stride: int = 1) -> ConvUnit:
    return ConvUnit(below, above, kernel_size, stride, kernel_size // 2, batch_norm=False)


def _inception(below: int, filters: Sequence[int]) -> Branches:
    one, reduce_3, three, reduce_5, five, after_pool = filters
    return Branches([
        _conv(below, one, 1),
        nn.Sequential(_conv(below, reduce_3, 1), _conv(reduce_3, three, 3)),
        nn.Sequential(_conv(below, reduce_5, 1), _conv(reduce_5, five, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, padding=1), _conv(below, after_pool, 1)),
    ])  # fmt: skip


def _auxiliary_head(
    below: int, sides: Sequence[int], num_classes: int, width: float, dropout_prob: float
) -> nn.Sequential:
    """5x5 mean pooling with stride 3, a 1x1 convolution and two dense layers, as in section 5."""
    window = [min(5, side) for side in sides]
    height, wide = ((side - size) // 3 + 1 for side, size in zip(sides, window, strict=True))
    channels, units = scaled(128, width), scaled(1024, width)
    hidden, dense = nn.Linear(channels * height * wide, units), nn.Linear(units, num_classes)
    nn.init.kaiming_normal_(hidden.weight, nonlinearity="relu")
    nn.init.normal_(dense.weight, std=0.01)
    for layer in (hidden, dense):
        nn.init.zeros_(layer.bias)
    pool = nn.AvgPool2d((window[0], window[1]), stride=3)
    return nn.Sequential(
        pool, _conv(below, channels, 1), nn.Flatten(), hidden, nn.ReLU(), nn.Dropout(dropout_prob), dense
    )


def _response_norm(num_channels: int) -> ResponseNorm:
    """The constants are those of bvlc_googlenet, the Caffe model; the paper has none."""
    return ResponseNorm(num_channels, radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75)
