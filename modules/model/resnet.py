"""Residual networks for images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from modules.model.layers.inception_blocks import check_images

EXPANSION = {"basic": 1, "bottleneck": 4}


class ResNet(nn.Module):
    """A residual network with 18 to 152 layers. Its weights have the names of torchvision's, so those load by `init_from`.

    Source: He et al. 2015, arXiv:1512.03385, with the stride of a bottleneck block in its 3x3 convolution (ResNet v1.5). For
    small images choose a 3x3 stem with stride 1 and no pooling, as in section 4.2.
    """

    is_component = True

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        block: Literal["basic", "bottleneck"] = "basic",
        num_blocks: Sequence[int] = (2, 2, 2, 2),
        base_channels: int = 64,
        stem_size: int = 7,
        stem_stride: int = 2,
        stem_pool: bool = True,
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width], any size.
            num_classes: logits per image.
            block: "basic": two 3x3 convolutions; "bottleneck": a 3x3 convolution between two of 1x1.
            num_blocks: residual blocks of each stage; the image is halved between stages.
            base_channels: channels of the first stage, before the expansion by 4 of a bottleneck block; doubled in each stage.
            stem_size: side of the filters of the first convolution, odd.
            stem_stride: of the first convolution.
            stem_pool: 3x3 pooling with stride 2 after it.
        """
        super().__init__()
        check_images("ResNet", image_shape, num_classes, 1.0)
        if not num_blocks or min(*num_blocks, base_channels, stem_stride) < 1 or stem_size % 2 != 1:
            raise ValueError(
                f"ResNet wants sizes of at least 1 and an odd stem_size, but got num_blocks={list(num_blocks)}, "
                f"base_channels={base_channels}, stem_size={stem_size}, stem_stride={stem_stride}"
            )
        below = base_channels
        self.conv1 = nn.Conv2d(image_shape[0], below, stem_size, stem_stride, stem_size // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(below)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem_pool else nn.Identity()
        self.num_stages = len(num_blocks)
        for stage, count in enumerate(num_blocks):
            width, blocks = base_channels << stage, list[nn.Module]()
            for number in range(count):
                blocks.append(ResidualBlock(below, width, 2 if stage and not number else 1, block))
                below = width * EXPANSION[block]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.fc = nn.Linear(below, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def layers(self) -> list[nn.Module]:
        stages = [
            block for number in range(self.num_stages) for block in self.get_submodule(f"layer{number + 1}").children()
        ]
        return [self.conv1, self.bn1, self.relu, self.maxpool, *stages, self.avgpool, self.fc]

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float [batch, channels, height, width], to logits, float [batch, num_classes]."""
        for layer in self.layers():
            images = layer(images)
        return images


class ResidualBlock(nn.Module):
    """Convolutions whose result is added to their inputs, with a 1x1 convolution of the inputs where the shape changes."""

    def __init__(self, below: int, width: int, stride: int, block: Literal["basic", "bottleneck"]) -> None:
        super().__init__()
        above = width * EXPANSION[block]
        plan = [(below, width, 3, stride), (width, above, 3, 1)]
        if block == "bottleneck":
            plan = [(below, width, 1, 1), (width, width, 3, stride), (width, above, 1, 1)]
        self.num_convs = len(plan)
        for number, (inputs, outputs, size, own_stride) in enumerate(plan, 1):
            self.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, size, own_stride, size // 2, bias=False))
            self.add_module(f"bn{number}", nn.BatchNorm2d(outputs))
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or below != above:
            self.downsample = nn.Sequential(nn.Conv2d(below, above, 1, stride, bias=False), nn.BatchNorm2d(above))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map float [batch, channels, height, width] to features of the next block."""
        outputs = inputs
        for number in range(1, self.num_convs + 1):
            outputs = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(outputs))
            outputs = F.relu(outputs) if number < self.num_convs else outputs
        return F.relu(outputs + self.downsample(inputs))
