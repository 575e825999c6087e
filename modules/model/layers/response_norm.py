"""Local response normalisation across channels, with TensorFlow's constants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResponseNorm(nn.Module):
    """Divides every value by ``(bias + alpha * sum of squares of the neighbouring channels) ** beta``.

    The same as ``tf.nn.lrn``. `torch.nn.LocalResponseNorm` divides alpha by the size, and takes 66 ms forward and backward
    on float [128, 64, 12, 12]; the banded 1x1 convolution here takes 10 ms (one core, 2026-11-23).
    Source: Krizhevsky et al. 2012, section 3.3.
    """

    band: Tensor

    def __init__(self, num_channels: int, radius: int, bias: float, alpha: float, beta: float) -> None:
        """
        Args:
            num_channels: channels of the images.
            radius: neighbouring channels on either side.
            bias: keeps the divisor above zero.
            alpha: weight of the sum of squares, not of their mean.
            beta: exponent.
        """
        super().__init__()
        if num_channels < 1 or radius < 0:
            raise ValueError(f"ResponseNorm wants num_channels >= 1 and radius >= 0, but got {num_channels}, {radius}")
        channel = torch.arange(num_channels)
        near = (channel[:, None] - channel[None, :]).abs() <= radius
        self.register_buffer("band", near[:, :, None, None] * float(alpha), persistent=False)
        self.bias = bias
        self.beta = beta

    def forward(self, images: Tensor) -> Tensor:
        """Normalise.

        Args:
            images: float [batch, num_channels, height, width].

        Returns:
            float, of the same shape.
        """
        return images * (self.bias + F.conv2d(images * images, self.band)).pow(-self.beta)
