"""Building blocks of the Inception networks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ConvUnit(nn.Sequential):
    """A convolution, optional batch normalisation, and ReLU.

    Initial weights: He et al. 2015, arXiv:1502.01852. With batch normalisation the convolution has no bias.
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
            below: input channels.
            above: output channels.
            kernel_size: side of the filter, or its height and width.
            stride: of the convolution.
            padding: zeros at every side.
            batch_norm: add batch normalisation. Source: Ioffe and Szegedy 2015, arXiv:1502.03167.
        """
        conv = nn.Conv2d(below, above, kernel_size, stride, padding, bias=not batch_norm)
        nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
        norm = [nn.BatchNorm2d(above, eps=1e-3)] if batch_norm else []
        super().__init__(conv, *norm, nn.ReLU())


class Branches(nn.ModuleList):
    """Parallel layers on the same features; their output channels are concatenated.

    Source: Szegedy et al. 2014, arXiv:1409.4842, figure 2.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Map float [batch, channels, height, width] to the concatenated channels of all branches."""
        return torch.cat([branch(features) for branch in self], dim=1)


def scaled(channels: int, width: float) -> int:
    """Scale a number of channels by ``width``, rounded to a multiple of 8 for fast hardware kernels."""
    return max(8, round(channels * width / 8) * 8)


def check_images(owner: str, image_shape: Sequence[int], num_classes: int, width: float, *dropout_probs: float) -> None:
    """
    Raises:
        ValueError: a value is out of range.
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
    """Return global mean pooling, dropout and a dense layer."""
    dense = nn.Linear(below, num_classes)
    nn.init.normal_(dense.weight, std=0.01)
    nn.init.zeros_(dense.bias)
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout_prob), dense)
