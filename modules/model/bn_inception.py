"""The Inception network with batch normalisation, also called Inception v2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.model.layers.inception_blocks import Branches, ConvUnit, check_images, classifier, scaled
from modules.model.layers.same_pool import SameMaxPool

# Filters of every module: 1x1; 1x1 before 3x3, 3x3; 1x1 before two 3x3, these; 1x1 after the pool; and the kind of pool.
# Modules without a 1x1 halve the image. Figure 5 of the paper.
MODULES = {
    "3a": ((64, 64, 64, 64, 96, 32), "mean"),
    "3b": ((64, 64, 96, 64, 96, 64), "mean"),
    "3c": ((0, 128, 160, 64, 96, 0), "max"),
    "4a": ((224, 64, 96, 96, 128, 128), "mean"),
    "4b": ((192, 96, 128, 96, 128, 128), "mean"),
    "4c": ((160, 128, 160, 128, 160, 96), "mean"),
    "4d": ((96, 128, 192, 160, 192, 96), "mean"),
    "4e": ((0, 128, 192, 192, 256, 0), "max"),
    "5a": ((352, 192, 320, 160, 224, 128), "mean"),
    "5b": ((352, 192, 320, 192, 224, 128), "max"),
}
STEM_MULTIPLIER = 8
"""Filters per colour channel in a separable first convolution."""


class BnInception(nn.Module):
    """Ten Inception modules with batch normalisation after every convolution.

    As published, on 224x224 with 1,000 classes, it has 11,188,288 parameters, as in the release of the authors
    (https://github.com/tensorflow/models, slim, inception_v2). The text of the paper says 13.6 million, which contradicts
    its figure 5. The Caffe port has 11,295,240: biases, a plain first convolution, and 128 channels after the pools of 4c
    and 4d, as figure 5 says, which contradicts its 576 output channels.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
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
        separable_stem: bool = True,
        dropout_prob: float = 0.0,
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width].
            num_classes: logits per image.
            width: multiple of the published numbers of channels.
            stem_size: kernel size of the first convolution; odd.
            stem_stride: stride of the first convolution.
            stem_pools: number of pools before the first module, each of which halves the image: 2, 1 or 0.
            separable_stem: make the first convolution depthwise separable.
            dropout_prob: dropout before the logits.
        """
        super().__init__()
        check_images("BnInception", image_shape, num_classes, width, dropout_prob)
        if stem_size % 2 == 0 or min(stem_size, stem_stride) < 1 or not 0 <= stem_pools <= 2:
            raise ValueError(
                f"BnInception wants an odd stem_size, stem_stride of at least 1 and stem_pools from 0 to 2, but got "
                f"{stem_size}, {stem_stride} and {stem_pools}; the paper has 7, 2 and 2"
            )
        first, below = scaled(64, width), scaled(192, width)
        stem = _separable if separable_stem else _conv
        self.add_module("stem_1", nn.Sequential(
            stem(image_shape[0], first, stem_size, stem_stride),
            *([SameMaxPool(3, 2)] if stem_pools == 2 else []),
        ))  # fmt: skip
        self.add_module("stem_2", nn.Sequential(
            _conv(first, first, 1),
            _conv(first, below, 3),
            *([SameMaxPool(3, 2)] if stem_pools else []),
        ))  # fmt: skip
        for name, (published, pool) in MODULES.items():
            filters = [scaled(number, width) if number else 0 for number in published]
            self.add_module(f"inception_{name}", _inception(below, filters, pool))
            one, _, three, _, double, after_pool = filters
            below = one + three + double + (after_pool or below)
        self.add_module("head", classifier(below, num_classes, dropout_prob))

    def layers(self) -> list[nn.Module]:
        return list(self.children())

    def forward(self, images: Tensor) -> Tensor:
        """Score the classes.

        Args:
            images: float [batch, channels, height, width], about mean 0.

        Returns:
            Logits, float [batch, num_classes].
        """
        states = images
        for layer in self.children():
            states = layer(states)
        return states


def _conv(below: int, above: int, kernel_size: int, stride: int = 1) -> ConvUnit:
    return ConvUnit(below, above, kernel_size, stride, kernel_size // 2, batch_norm=True)


def _separable(below: int, above: int, kernel_size: int, stride: int) -> nn.Sequential:
    own = below * STEM_MULTIPLIER
    each = nn.Conv2d(below, own, kernel_size, stride, kernel_size // 2, groups=below, bias=False)
    return nn.Sequential(each, _conv(own, above, 1))


def _inception(below: int, filters: Sequence[int], pool: str) -> Branches:
    one, reduce_3, three, reduce_double, double, after_pool = filters
    stride = 1 if one else 2
    pooled = SameMaxPool(3, stride) if pool == "max" else nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    branches = [
        nn.Sequential(_conv(below, reduce_3, 1), _conv(reduce_3, three, 3, stride)),
        nn.Sequential(
            _conv(below, reduce_double, 1), _conv(reduce_double, double, 3), _conv(double, double, 3, stride)
        ),
        nn.Sequential(pooled, *([_conv(below, after_pool, 1)] if after_pool else [])),
    ]
    return Branches([*([_conv(below, one, 1)] if one else []), *branches])
