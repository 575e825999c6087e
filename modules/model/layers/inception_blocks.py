"""What the Inception networks are built of: convolutions with their rectifiers, branches side by side, the last layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """A convolution and a rectifier, with batch normalisation between them where it is asked for.

    Weights start as in He et al. 2015, arXiv:1502.01852. What is normalised needs no bias.
    """

    def __init__(
        self,
        below: int,
        above: int,
        kernel_size: int | tuple[int, int],
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
        *,
        batch_norm: bool,
    ) -> None:
        """
        Args:
            below: channels that come in.
            above: channels that go out.
            kernel_size: side of the filter, or its height and width.
            stride: pixels from one place of the filter to the next.
            padding: rows and columns of zeros at every side.
            batch_norm: normalise every channel over the batch. Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
        """
        conv = nn.Conv2d(below, above, kernel_size, stride, padding, bias=not batch_norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        norm = [nn.BatchNorm2d(above, eps=1e-3)] if batch_norm else []
        super().__init__(conv, *norm, nn.ReLU())


class Branches(nn.ModuleList):
    """Layers side by side on the same features; their channels are put together.

    Source: Szegedy et al. 2014, arXiv:1409.4842, figure 2.
    """

    def forward(self, features: Tensor) -> Tensor:
        """From float [batch, channels, height, width] to the sum of the branches' channels at one height and width."""
        return torch.cat([branch(features) for branch in self], dim=1)


def scaled(channels: int, width: float) -> int:
    """Channels of a network that is ``width`` times as wide, to a multiple of 8, for which the hardware is made."""
    return max(8, round(channels * width / 8) * 8)


def check_images(owner: str, image_shape: Sequence[int], num_classes: int, width: float, *dropout_probs: float) -> None:
    """
    Raises:
        ValueError: a value makes no network of photos.
    """
    if len(image_shape) != 3 or min(*image_shape, num_classes) < 1:
        raise ValueError(
            f"{owner} wants image_shape as [channels, height, width] and num_classes of at least 1, but got "
            f"{list(image_shape)} and {num_classes}"
        )
    if not width > 0:
        raise ValueError(f"{owner} wants width above 0, but got {width}; 1.0 is the published network")
    for dropout_prob in dropout_probs:
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"{owner} wants every dropout_prob in [0, 1), but got {dropout_prob}")


def classifier(below: int, num_classes: int, dropout_prob: float) -> nn.Sequential:
    """The mean of every channel, dropout and one dense layer."""
    dense = nn.Linear(below, num_classes)
    nn.init.normal_(dense.weight, std=0.01)
    nn.init.zeros_(dense.bias)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout_prob), dense)
