"""The convolutional network of TensorFlow's CIFAR-10 tutorial."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from modules.model.base import Shard
from modules.model.layers.response_norm import ResponseNorm
from modules.model.layers.same_pool import SameMaxPool


class CifarCnn(nn.Module):
    """Two convolutions with pooling and normalisation, and two dense layers.

    On 24x24 crops it has 1,068,298 parameters, and the tutorial reached 86 %. The tutorial's weight decay of the dense layers
    and moving averages of the weights are not part of the model.
    Source: https://www.tensorflow.org/versions/r0.10/tutorials/deep_cnn, after Krizhevsky's cuda-convnet.
    """

    is_component = True

    def __init__(self, image_shape: Sequence[int], num_classes: int, dense_sizes: Sequence[int] = (384, 192)) -> None:
        """
        Args:
            image_shape: [channels, height, width]; the tutorial's crops are [3, 24, 24].
            num_classes: logits per image.
            dense_sizes: units of the two dense layers before the logits.
        """
        super().__init__()
        if len(image_shape) != 3 or min(*image_shape, num_classes) < 1:
            raise ValueError(
                f"CifarCnn wants image_shape as [channels, height, width] and num_classes of at least 1, "
                f"but got {list(image_shape)} and {num_classes}"
            )
        if len(dense_sizes) != 2 or min(dense_sizes) < 1:
            raise ValueError(
                f"CifarCnn wants dense_sizes as two sizes of at least 1, but got {list(dense_sizes)}; the tutorial has [384, 192]"
            )
        channels, height, width = image_shape
        self.dense_sizes = first, second = tuple(dense_sizes)
        pooled = 64 * -(-height // 4) * -(-width // 4)
        self.stack = nn.Sequential(
            _init_weights(nn.Conv2d(channels, 64, kernel_size=5, padding="same"), std=0.05, bias=0.0),
            nn.ReLU(),
            SameMaxPool(3, 2),
            _response_norm(),
            _init_weights(nn.Conv2d(64, 64, kernel_size=5, padding="same"), std=0.05, bias=0.1),
            nn.ReLU(),
            _response_norm(),
            SameMaxPool(3, 2),
            nn.Flatten(),
            _init_weights(nn.Linear(pooled, first), std=0.04, bias=0.1),
            nn.ReLU(),
            _init_weights(nn.Linear(first, second), std=0.04, bias=0.1),
            nn.ReLU(),
            _init_weights(nn.Linear(second, num_classes), std=1 / second, bias=0.0),
        )

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def shards(self) -> dict[str, Shard]:
        """Split the first dense layer, which has most of the weights, by units, and the inputs of the next one."""
        first = self.dense_sizes[0]
        return {
            "stack.9": Shard("column", first, "dense_sizes[0]"),
            "stack.11": Shard("row", first, "dense_sizes[0]"),
        }

    def forward(self, images: Tensor) -> Tensor:
        """Score the classes.

        Args:
            images: float [batch, channels, height, width], every image with mean 0 and variance 1.

        Returns:
            Logits, float [batch, num_classes].
        """
        return cast(Tensor, self.stack(images))


def _response_norm() -> ResponseNorm:
    return ResponseNorm(num_channels=64, radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)


def _init_weights(layer: nn.Conv2d | nn.Linear, std: float, bias: float) -> nn.Module:
    nn.init.trunc_normal_(
        layer.weight, std=std, a=-2 * std, b=2 * std
    )  # TensorFlow truncates at two standard deviations
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer
