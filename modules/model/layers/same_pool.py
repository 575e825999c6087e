"""Max pooling with TensorFlow's "SAME" padding, which the tutorials use."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class SameMaxPool(nn.Module):
    """Max pooling; a side of n pixels becomes ceil(n / stride) pixels.

    If the padding is odd, the end gets one pixel more, as in TensorFlow; torch pads evenly.
    """

    def __init__(self, window_size: int, stride: int) -> None:
        super().__init__()
        if not 1 <= stride <= window_size:
            raise ValueError(f"SameMaxPool wants 1 <= stride <= window_size, but got {stride} and {window_size}")
        self.window_size = window_size
        self.stride = stride

    def forward(self, images: Tensor) -> Tensor:
        """Pool height and width.

        Args:
            images: float [batch, channels, height, width].

        Returns:
            float [batch, channels, ceil(height / stride), ceil(width / stride)].
        """
        top, bottom = self._border(images.shape[2])
        left, right = self._border(images.shape[3])
        if top == left == 0 and self.stride > 1:  # at most one pixel at the end: torch needs no copy
            return F.max_pool2d(images, self.window_size, self.stride, ceil_mode=True)
        if top == bottom and left == right:
            return F.max_pool2d(images, self.window_size, self.stride, padding=(top, left))
        padded = F.pad(images, (left, right, top, bottom), value=float("-inf"))
        return F.max_pool2d(padded, self.window_size, self.stride)

    def _border(self, size: int) -> tuple[int, int]:
        missing = max(0, (-(-size // self.stride) - 1) * self.stride + self.window_size - size)
        return missing // 2, missing - missing // 2
