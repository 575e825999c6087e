"""AlexNet, the winner of the ImageNet challenge of 2012."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from modules.model.base import Shard
from modules.model.layers.response_norm import ResponseNorm


class AlexNet(nn.Module):
    """Five convolutions, three with pooling and two with normalisation, and three dense layers.

    As published, on 224x224, it has 60,965,224 parameters. Three convolutions have two groups, because the paper used two
    GPUs. Source: Krizhevsky et al. 2012, doi:10.1145/3065386.
    """

    is_component = True

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        conv_channels: Sequence[int],
        num_groups: int,
        stem_size: int,
        stem_stride: int,
        stem_padding: int,
        dense_size: int,
        response_norm: bool,
        dropout_prob: float,
        init_std: float | None,
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width].
            num_classes: logits per image.
            conv_channels: filters of the five convolutions.
            num_groups: groups of the second, fourth and fifth convolution.
            stem_size: kernel size of the first convolution.
            stem_stride: stride of the first convolution.
            stem_padding: padding of the first convolution; the paper does not say how 224 pixels become 55.
            dense_size: units of each of the two dense layers before the logits.
            response_norm: normalise the first two convolutions across channels, as published.
            dropout_prob: dropout before the two dense layers.
            init_std: standard deviation of all initial weights, with some biases 1, as published; null: He et al. 2015,
                arXiv:1502.01852, but 0.01 for the last layer, and biases 0.
        """
        super().__init__()
        self._check(image_shape, num_classes, conv_channels, num_groups, stem_size, stem_stride, dense_size)
        if not 0 <= dropout_prob < 1 or stem_padding < 0:
            raise ValueError(
                f"AlexNet wants dropout_prob in [0, 1) and stem_padding of at least 0, but got {dropout_prob} and {stem_padding}"
            )
        channels, *sides = image_shape
        first, second, third, fourth, fifth = conv_channels
        sides = [(side + 2 * stem_padding - stem_size) // stem_stride + 1 for side in sides]
        for _ in range(3):
            sides = [(side - 3) // 2 + 1 for side in sides]
        if min(sides) < 1:
            raise ValueError(
                f"AlexNet reduces {list(image_shape[1:])} pixels to 0 with stem_stride={stem_stride}; lower it, or use "
                "larger images"
            )
        pooled = fifth * sides[0] * sides[1]
        self.dense_size, self.num_classes = dense_size, num_classes
        self.stack = nn.Sequential(
            nn.Conv2d(channels, first, stem_size, stem_stride, stem_padding),
            nn.ReLU(),
            *([_response_norm(first)] if response_norm else []),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(first, second, 5, padding=2, groups=num_groups),
            nn.ReLU(),
            *([_response_norm(second)] if response_norm else []),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(second, third, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(third, fourth, 3, padding=1, groups=num_groups),
            nn.ReLU(),
            nn.Conv2d(fourth, fifth, 3, padding=1, groups=num_groups),
            nn.ReLU(),
            nn.MaxPool2d(3, 2),
            nn.Flatten(),
            nn.Dropout(dropout_prob),
            nn.Linear(pooled, dense_size),
            nn.ReLU(),
            nn.Dropout(dropout_prob),
            nn.Linear(dense_size, dense_size),
            nn.ReLU(),
            nn.Linear(dense_size, num_classes),
        )
        self._init_weights(init_std)

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def shards(self) -> dict[str, Shard]:
        """Split the dense layers, which have most of the weights. Source: Krizhevsky 2014, arXiv:1404.5997."""
        last = len(self.stack) - 1
        return {
            f"stack.{last - 5}": Shard("column", self.dense_size, "dense_size"),
            f"stack.{last - 2}": Shard("row", self.dense_size, "dense_size"),
            f"stack.{last}": Shard("classes", self.num_classes, "num_classes"),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Score the classes.

        Args:
            images: float [batch, channels, height, width], about mean 0.

        Returns:
            Logits, float [batch, num_classes].
        """
        return cast(Tensor, self.stack(images))

    def _check(self, image_shape: Sequence[int], num_classes: int, conv_channels: Sequence[int], *sizes: int) -> None:
        num_groups, stem_size, stem_stride, dense_size = sizes
        if len(image_shape) != 3 or min(*image_shape, num_classes, *sizes) < 1:
            raise ValueError(
                f"AlexNet wants image_shape as [channels, height, width] and sizes of at least 1, but got "
                f"image_shape={list(image_shape)}, num_classes={num_classes}, num_groups={num_groups}, "
                f"stem_size={stem_size}, stem_stride={stem_stride}, dense_size={dense_size}"
            )
        if (
            len(conv_channels) != 5
            or min(conv_channels) < 1
            or any(channels % num_groups for channels in conv_channels)
        ):
            raise ValueError(
                f"AlexNet wants conv_channels as five numbers that num_groups={num_groups} divides, but got "
                f"{list(conv_channels)}; the paper has [96, 256, 384, 384, 256] in 2 groups"
            )

    def _init_weights(self, init_std: float | None) -> None:
        parts = [part for part in self.stack if isinstance(part, nn.Conv2d | nn.Linear)]
        ones = (1, 3, 4, 5, 6)  # the second, fourth and fifth convolution, and the dense layers
        for number, part in enumerate(parts):
            assert part.bias is not None
            if init_std is None and number < len(parts) - 1:
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            else:
                nn.init.normal_(part.weight, std=init_std or 0.01)
            nn.init.constant_(part.bias, float(init_std is not None and number in ones))


def _response_norm(num_channels: int) -> ResponseNorm:
    return ResponseNorm(num_channels, radius=2, bias=2.0, alpha=1e-4, beta=0.75)
