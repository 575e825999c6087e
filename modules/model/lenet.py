"""The convolutional network of TensorFlow's tutorial "Deep MNIST for experts"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from modules.model.base import Shard
from modules.model.layers.same_pool import SameMaxPool


class LeNet(nn.Module):
    """Two 5x5 convolutions with 2x2 pooling, a dense layer with dropout, and the output layer.

    With the tutorial's sizes on 28x28x1 it has 3,274,634 parameters.
    Source: https://www.tensorflow.org/versions/r0.10/tutorials/mnist/pros, after LeCun et al. 1998.
    """

    is_component = True

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        conv_channels: Sequence[int],
        hidden_size: int,
        dropout_prob: float,
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width], any size.
            num_classes: logits per image.
            conv_channels: output channels of every convolution.
            hidden_size: units of the dense layer.
            dropout_prob: dropout after the dense layer.
        """
        super().__init__()
        if len(image_shape) != 3 or min(*image_shape, num_classes, *conv_channels, hidden_size) < 1:
            raise ValueError(
                f"LeNet wants image_shape as [channels, height, width] and sizes of at least 1, but got "
                f"image_shape={list(image_shape)}, num_classes={num_classes}, conv_channels={list(conv_channels)}, "
                f"hidden_size={hidden_size}"
            )
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"LeNet wants dropout_prob in [0, 1), but got {dropout_prob}")
        channels, height, width = image_shape
        rounds: list[nn.Module] = []
        for above in conv_channels:
            rounds += [nn.Conv2d(channels, above, kernel_size=5, padding="same"), nn.ReLU(), SameMaxPool(2, 2)]
            channels, height, width = above, -(-height // 2), -(-width // 2)
        dense = nn.Linear(channels * height * width, hidden_size)
        head = [nn.Flatten(), dense, nn.ReLU(), nn.Dropout(dropout_prob), nn.Linear(hidden_size, num_classes)]
        self.hidden_size = hidden_size
        self.stack = nn.Sequential(*rounds, *head)
        self.apply(_init_weights)

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def shards(self) -> dict[str, Shard]:
        """Split the dense layer by its units; the convolutions have few weights."""
        last = len(self.stack) - 1
        return {
            f"stack.{last - 3}": Shard("column", self.hidden_size, "hidden_size"),
            f"stack.{last}": Shard("row", self.hidden_size, "hidden_size"),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Score the classes.

        Args:
            images: float [batch, channels, height, width].

        Returns:
            Logits, float [batch, num_classes].
        """
        return cast(Tensor, self.stack(images))


def _init_weights(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
        assert layer.bias is not None
        nn.init.constant_(layer.bias, 0.1)
