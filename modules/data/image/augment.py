"""Augmentation and normalisation of a batch of images, vectorised over the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.data.sampling.example_random import ExampleRandom


def centre_crop(images: Tensor, size: int) -> Tensor:
    """Crop the centre square of every image.

    Args:
        images: [batch, channels, height, width], of any dtype.
        size: side of the square.

    Returns:
        [batch, channels, size, size].
    """
    top, left = (images.shape[2] - size) // 2, (images.shape[3] - size) // 2
    return images[:, :, top : top + size, left : left + size]


def random_crop(images: Tensor, size: int, random: ExampleRandom) -> Tensor:
    """Crop a square at a random position of every image; shapes as `centre_crop`."""
    windows = images.unfold(2, size, 1).unfold(3, size, 1)  # a view: [batch, channels, tops, lefts, size, size]
    top = random.integers(windows.shape[2])
    left = random.integers(windows.shape[3])
    return windows[torch.arange(len(images)), :, top, left]


def random_flip(images: Tensor, random: ExampleRandom) -> Tensor:
    """Mirror every image with probability 0.5; any dtype, the same shape."""
    flipped = random.uniform(1, 1, 1) < 0.5
    return torch.where(flipped, images.flip(3), images)


def random_brightness(images: Tensor, max_delta: float, random: ExampleRandom) -> Tensor:
    """Add a random number of ``[-max_delta, max_delta)`` to every image; float, the same shape."""
    return images + _uniform(-max_delta, max_delta, random)


def random_contrast(images: Tensor, lower: float, upper: float, random: ExampleRandom) -> Tensor:
    """Scale the distance from the mean of every channel by a random factor of ``[lower, upper)``; float, the same shape."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean, images, _uniform(lower, upper, random))


def standardise(images: Tensor) -> Tensor:
    """Scale every image to mean 0 and variance 1, as ``tf.image.per_image_standardization``.

    Args:
        images: float [batch, channels, height, width].

    Returns:
        float, of the same shape; an image of one colour becomes zeros.
    """
    flat = images.flatten(1)
    variance, mean = torch.var_mean(flat, dim=1, correction=0, keepdim=True)
    deviation = variance.sqrt().clamp_min(flat.shape[1] ** -0.5)
    return ((flat - mean) / deviation).view_as(images)


def _uniform(lower: float, upper: float, random: ExampleRandom) -> Tensor:
    return lower + (upper - lower) * random.uniform(1, 1, 1)
