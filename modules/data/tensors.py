"""A split in memory, and checks that data sets share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch, Tensors

Transform = Callable[[Tensor, Tensor], Tensors]


class TensorSplit:
    """A split of tensors; a transform can convert bytes to floats batch by batch, to save memory."""

    in_memory = True

    def __init__(self, inputs: Tensor, targets: Tensor, transform: Transform | None = None) -> None:
        """
        Args:
            inputs: [examples, ...], of any dtype.
            targets: int64 [examples].
            transform: maps the inputs of a batch and the seeds of its examples, int64 [batch], to the model's inputs.
        """
        if len(inputs) != len(targets):
            raise ValueError(
                f"TensorSplit wants as many targets as inputs, but got {len(targets)} and {len(inputs)}; pair them"
            )
        self.inputs = inputs
        self.targets = targets
        self.transform = transform

    def __len__(self) -> int:
        return len(self.inputs)

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        rows = self.inputs.index_select(0, indices)
        inputs = rows if self.transform is None else self.transform(rows, seeds)
        return inputs, self.targets.index_select(0, indices)


def scale_pixels(pixels: Tensor, seeds: Tensor | None = None) -> Tensor:
    """Convert uint8 to float in [0, 1], of the same shape; a transform that needs no seeds."""
    return pixels.float().div_(255)


def make_places(indices: Tensor, num_examples: int) -> Tensor:
    """Say which examples of a split a batch has, as a part of its targets: metrics over the whole split need it.

    Args:
        indices: int64 [batch], positions in the split.
        num_examples: of the split.

    Returns:
        int64 [batch, 2]: the position, and the number of examples.
    """
    return torch.stack([indices, torch.full_like(indices, num_examples)], dim=1)


def check_split(owner: str, split: str) -> None:
    """
    Raises:
        ValueError: the split has another name.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"{owner} wants the split 'train', 'val' or 'test', but got {split!r}")


def hold_back(split: str, inputs: Tensor, targets: Tensor, num_train: int, num_val: int) -> tuple[Tensor, Tensor]:
    """Return the first ``num_train`` or the last ``num_val`` examples of the training files.

    Raises:
        ValueError: the files hold fewer than both together.
    """
    if num_train + num_val > len(inputs):
        raise ValueError(
            f"data.num_train={num_train} and data.num_val={num_val} are together more than the {len(inputs)} examples; "
            f"set data.num_train={len(inputs) - num_val}"
        )
    if split == "val":
        return inputs[-num_val:], targets[-num_val:]
    return inputs[:num_train], targets[:num_train]


def check_image_shape(owner: str, image_shape: Sequence[int], num_features: int) -> tuple[int, int, int]:
    """Return the shape as a tuple.

    Raises:
        ValueError: it is not [channels, height, width], or its product is not the number of features.
    """
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"{owner} wants image_shape as [channels, height, width], each at least 1, but got {list(image_shape)}"
        )
    if num_features != prod(image_shape):
        raise ValueError(
            f"{owner}: data.num_features={num_features} is not the product of "
            f"data.image_shape={list(image_shape)}; set data.num_features={prod(image_shape)}"
        )
    channels, height, width = image_shape
    return channels, height, width


def check_labels(labels: np.ndarray) -> None:
    """
    Raises:
        ValueError: they are not one whole number of at least 0 for each example.
    """
    if labels.ndim != 1 or labels.dtype.kind not in "iub":
        raise ValueError(
            f"its labels have the shape {list(labels.shape)} and the type {labels.dtype}, but must be one integer per example"
        )
    if len(labels) and int(labels.min()) < 0:
        raise ValueError(f"it has the label {int(labels.min())}, but labels are numbered from 0")


def check_numbers(name: str, values: np.ndarray) -> None:
    """
    Raises:
        ValueError: they are not real, finite numbers.
    """
    if values.dtype.kind not in "fiub":
        raise ValueError(f"its {name} have the type {values.dtype}, but must be real numbers")
    if not (finite := np.isfinite(values)).all():
        raise ValueError(f"{int((~finite).sum())} of its {values.size} {name} are not finite numbers (NaN or infinite)")


def check_at_least(owner: str, least: int, **numbers: int) -> None:
    """
    Raises:
        ValueError: a number is lower.
    """
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"{owner} wants {name} of at least {least}, but got {number}")
