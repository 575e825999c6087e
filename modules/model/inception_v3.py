"""Inception v3: large filters are factorised into small and asymmetric filters."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from modules.data.base import Tensors
from modules.model.layers.auxiliary import Auxiliary, OnFirst
from modules.model.layers.inception_blocks import Branches, ConvUnit, check_images, classifier, scaled

Step = tuple[int, int | tuple[int, int]]
"""Filters of a convolution, and the kernel size as a side or as height and width."""
TALL, WIDE = (7, 1), (1, 7)


class InceptionV3(nn.Module):
    """Inception modules on three grids (35x35, 17x17 and 8x8 as published), with an auxiliary classifier in training.

    As published, on 299x299 with 1,000 classes, it has 23,834,568 parameters, and 27,161,264 with the auxiliary classifier.
    Source: Szegedy et al. 2015, arXiv:1512.00567; where table 1 differs from the release of the authors
    (https://github.com/tensorflow/models, slim), this follows the release.
    """

    is_component = True

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        width: float = 1.0,
        stem_stride: int = 2,
        stem_pools: int = 2,
        auxiliary: bool = True,
        dropout_prob: float = 0.2,
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width].
            num_classes: logits per image.
            width: multiple of the published numbers of channels.
            stem_stride: stride of the first convolution.
            stem_pools: number of pools before the first module, each of which halves the image: 2, 1 or 0.
            auxiliary: add an auxiliary classifier after the last module of the second grid, for training.
            dropout_prob: dropout before the logits.
        """
        super().__init__()
        check_images("InceptionV3", image_shape, num_classes, width, dropout_prob)
        if stem_stride < 1 or not 0 <= stem_pools <= 2:
            raise ValueError(
                f"InceptionV3 wants stem_stride of at least 1 and stem_pools from 0 to 2, but got {stem_stride} and "
                f"{stem_pools}; the paper has 2 and 2"
            )
        height, wide = (_grids(side, stem_stride, stem_pools) for side in image_shape[1:])
        if min(height[-1], wide[-1]) < 1:
            raise ValueError(
                f"InceptionV3 reduces {list(image_shape[1:])} pixels to 0 with stem_stride={stem_stride} and "
                f"stem_pools={stem_pools}; lower them, or use larger images"
            )
        make = _Modules(width)
        layers = make.stem(image_shape[0], stem_stride, stem_pools) | make.first_grid() | make.second_grid()
        if auxiliary:
            layers["auxiliary_6e"] = Auxiliary(make.auxiliary_head((height[1], wide[1]), num_classes))
        layers |= {name: OnFirst(layer) for name, layer in make.third_grid().items()}
        layers["head"] = OnFirst(classifier(make.below, num_classes, dropout_prob))
        for name, layer in layers.items():
            self.add_module(name, layer)

    def layers(self) -> list[nn.Module]:
        return list(self.children())

    def forward(self, images: Tensor) -> Tensors:
        """Score the classes.

        Args:
            images: float [batch, channels, height, width], about mean 0.

        Returns:
            Logits, float [batch, num_classes]; in training with an auxiliary classifier a tuple of two: the logits of the
            last layer and of the auxiliary classifier.
        """
        states: Tensors = images
        for layer in self.children():
            states = layer(states)
        return states


class _Modules:
    """Makes the layers of the network in order; modules have the names of the release.

    Attributes:
        below: output channels of the last layer so far.
    """

    def __init__(self, width: float) -> None:
        self.width = width
        self.below = 0

    def stem(self, channels: int, stride: int, num_pools: int) -> dict[str, nn.Module]:
        first, second, third, fourth, self.below = (scaled(number, self.width) for number in (32, 32, 64, 80, 192))
        pools = [nn.MaxPool2d(3, 2) for _ in range(num_pools)]
        lower = [
            ConvUnit(channels, first, 3, stride, batch_norm=True),
            ConvUnit(first, second, 3, batch_norm=True),
            ConvUnit(second, third, 3, padding=1, batch_norm=True),
        ]
        upper = [ConvUnit(third, fourth, 1, batch_norm=True), ConvUnit(fourth, self.below, 3, batch_norm=True)]
        return {"stem_1": nn.Sequential(*lower, *pools[:1]), "stem_2": nn.Sequential(*upper, *pools[1:])}

    def first_grid(self) -> dict[str, nn.Module]:
        """Figure 5 of the paper: two 3x3 filters instead of 5x5. As in the release, one 5x5 filter remains."""
        return {
            f"mixed_{name}": self._side_by_side(
                self._chain((64, 1)),
                self._chain((48, 1), (64, 5)),
                self._chain((64, 1), (96, 3), (96, 3)),
                self._chain((after_pool, 1), pool=True),
            )
            for name, after_pool in (("5b", 32), ("5c", 64), ("5d", 64))
        }

    def second_grid(self) -> dict[str, nn.Module]:
        """A reduction as in figure 10, then figure 6: 1x7 and 7x1 filters instead of 7x7."""
        layers: dict[str, nn.Module] = {
            "mixed_6a": self._halved(
                self._chain((384, 3), halves=True), self._chain((64, 1), (96, 3), (96, 3), halves=True)
            )
        }
        for name, inner in (("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)):
            layers[f"mixed_{name}"] = self._side_by_side(
                self._chain((192, 1)),
                self._chain((inner, 1), (inner, WIDE), (192, TALL)),
                self._chain((inner, 1), (inner, TALL), (inner, WIDE), (inner, TALL), (192, WIDE)),
                self._chain((192, 1), pool=True),
            )
        return layers

    def third_grid(self) -> dict[str, nn.Module]:
        """A reduction, then figure 7: parallel 1x3 and 3x1 filters instead of 3x3."""
        layers: dict[str, nn.Module] = {
            "mixed_7a": self._halved(
                self._chain((192, 1), (320, 3), halves=True),
                self._chain((192, 1), (192, WIDE), (192, TALL), (192, 3), halves=True),
            )
        }
        for name in ("7b", "7c"):
            layers[f"mixed_{name}"] = self._side_by_side(
                self._chain((320, 1)),
                self._spread(self._chain((384, 1))),
                self._spread(self._chain((448, 1), (384, 3))),
                self._chain((192, 1), pool=True),
            )
        return layers

    def auxiliary_head(self, sides: tuple[int, int], num_classes: int) -> nn.Sequential:
        """5x5 mean pooling with stride 3, and two convolutions with batch normalisation, the second of at most 5x5."""
        pooled = [(side - min(5, side)) // 3 + 1 for side in sides]
        inner, above = scaled(128, self.width), scaled(768, self.width)
        return nn.Sequential(
            nn.AvgPool2d((min(5, sides[0]), min(5, sides[1])), stride=3),
            ConvUnit(self.below, inner, 1, batch_norm=True),
            ConvUnit(inner, above, (min(5, pooled[0]), min(5, pooled[1])), batch_norm=True),
            *classifier(above, num_classes, dropout_prob=0.0),
        )

    def _chain(self, *steps: Step, pool: bool = False, halves: bool = False) -> tuple[nn.Sequential, int]:
        """Return consecutive convolutions, optionally after mean pooling or with stride 2 in the last, and their output
        channels.
        """
        layers: list[nn.Module] = [nn.AvgPool2d(3, 1, padding=1, count_include_pad=False)] if pool else []
        channels = self.below
        for number, (filters, side) in enumerate(steps, start=1):
            last_halves = halves and number == len(steps)
            height, wide = (side, side) if isinstance(side, int) else side
            padding = (0, 0) if last_halves else (height // 2, wide // 2)
            above = scaled(filters, self.width)
            layers.append(ConvUnit(channels, above, (height, wide), 1 + last_halves, padding, batch_norm=True))
            channels = above
        return nn.Sequential(*layers), channels

    def _spread(self, chain: tuple[nn.Sequential, int]) -> tuple[nn.Sequential, int]:
        """Append parallel 1x3 and 3x1 filters to a chain."""
        layers, channels = chain
        ends = [
            ConvUnit(channels, channels, side, 1, (side[0] // 2, side[1] // 2), batch_norm=True)
            for side in ((1, 3), (3, 1))
        ]
        return nn.Sequential(*layers, Branches(ends)), 2 * channels

    def _halved(self, *chains: tuple[nn.Sequential, int]) -> Branches:
        return self._side_by_side(*chains, (nn.Sequential(nn.MaxPool2d(3, 2)), self.below))

    def _side_by_side(self, *chains: tuple[nn.Sequential, int]) -> Branches:
        self.below = sum(channels for _, channels in chains)
        return Branches(layers for layers, _ in chains)


def _grids(side: int, stem_stride: int, stem_pools: int) -> tuple[int, int, int]:
    """Return the side of the three grids in pixels; below 1 if the image is too small."""

    def without_border(side: int, stride: int) -> int:
        return (side - 3) // stride + 1

    side = without_border(without_border(side, stem_stride), 1)
    strides = [2, 1, 2][: 1 + stem_pools] if stem_pools else [1]
    for stride in strides:
        side = without_border(side, stride)
    second = without_border(side, 2)
    return side, second, without_border(second, 2)
