"""The U-Net for segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

States = tuple[Tensor, ...]
"""The latest features, then those for the skip connections, the coarsest first."""


class UNet(nn.Module):
    """A U-Net for images of any size: pooling on the way down, transposed convolutions with skip connections on the way up.

    Unlike the paper, convolutions are padded, so the output is as large as the input, and a group norm follows each (Wu and He
    2018, arXiv:1803.08494). Without a norm the same number of steps found no vessels; with batch norm, replicas would differ
    from a single process. Source: Ronneberger et al. 2015, arXiv:1505.04597.
    """

    is_component = True

    def __init__(
        self, image_shape: Sequence[int], num_classes: int, base_channels: int, num_levels: int, num_groups: int
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width]; only the channels matter.
            num_classes: logits per pixel.
            base_channels: channels at full size; every lower level has twice as many. The paper has 64.
            num_levels: number of resolutions; the paper has 5.
            num_groups: groups of the group norm.
        """
        super().__init__()
        if len(image_shape) != 3 or min(image_shape[0], num_classes, base_channels, num_levels) < 1:
            raise ValueError(
                f"UNet wants image_shape as [channels, height, width] and num_classes, base_channels and num_levels of at least "
                f"1, but got {list(image_shape)}, {num_classes}, {base_channels} and {num_levels}"
            )
        if num_groups < 1 or base_channels % num_groups:
            raise ValueError(
                f"UNet wants base_channels as a multiple of num_groups, but got {base_channels} and {num_groups}; "
                f"num_groups=1 always fits"
            )
        channels = [base_channels * 2**level for level in range(num_levels)]
        below = [int(image_shape[0]), *channels]
        self.down = nn.ModuleList(
            Down(below[level], channels[level], num_groups, pools=level > 0) for level in range(num_levels)
        )
        self.up = nn.ModuleList(Up(channels[level], num_groups) for level in reversed(range(num_levels - 1)))
        self.head = MaskHead(base_channels, num_classes)
        self.apply(_init_weights)

    def layers(self) -> list[nn.Module]:
        """Return the levels on the way down and up, and the output layer; features for skip connections are passed along."""
        return [*self.down, *self.up, self.head]

    def forward(self, images: Tensor) -> Tensor:
        """Score every pixel.

        Args:
            images: float [batch, channels, height, width].

        Returns:
            Logits, float [batch, height, width, num_classes].
        """
        states: Tensor | States = images
        for layer in self.layers():
            states = layer(states)
        return cast(Tensor, states)


class Down(nn.Module):
    """One level on the way down."""

    def __init__(self, num_inputs: int, num_outputs: int, num_groups: int, pools: bool) -> None:
        super().__init__()
        self.pools = pools
        self.convolve = _two_convolutions(num_inputs, num_outputs, num_groups)

    def forward(self, states: Tensor | States) -> States:
        """Put new features before the existing features; the input of the first level is the images."""
        if isinstance(states, Tensor):
            states = (states,)
        inputs = F.max_pool2d(states[0], 2, ceil_mode=True) if self.pools else states[0]
        return (self.convolve(inputs), *(states if self.pools else ()))


class Up(nn.Module):
    """One level on the way up, with a skip connection."""

    def __init__(self, num_outputs: int, num_groups: int) -> None:
        super().__init__()
        self.grow = nn.ConvTranspose2d(2 * num_outputs, num_outputs, kernel_size=2, stride=2)
        self.convolve = _two_convolutions(2 * num_outputs, num_outputs, num_groups)

    def forward(self, states: States) -> States:
        coarse, same, *others = states
        grown = self.grow(coarse)[:, :, : same.shape[2], : same.shape[3]]  # pooling rounds odd sides up
        return (self.convolve(torch.cat([same, grown], dim=1)), *others)


class MaskHead(nn.Module):
    """Logits of every pixel, classes last."""

    def __init__(self, num_inputs: int, num_classes: int) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(num_inputs, num_classes, kernel_size=1)

    def forward(self, states: States) -> Tensor:
        return cast(Tensor, self.convolve(states[0])).permute(0, 2, 3, 1)


def _two_convolutions(num_inputs: int, num_outputs: int, num_groups: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_inputs, num_outputs, kernel_size=3, padding=1, bias=False),  # the norm has a bias
        nn.GroupNorm(num_groups, num_outputs),
        nn.ReLU(),
        nn.Conv2d(num_outputs, num_outputs, kernel_size=3, padding=1, bias=False),
        nn.GroupNorm(num_groups, num_outputs),
        nn.ReLU(),
    )


def _init_weights(layer: nn.Module) -> None:
    """As in section 3 of the paper: a standard deviation of sqrt(2 / inputs of a unit)."""
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.bias is not None:
        nn.init.zeros_(layer.bias)
