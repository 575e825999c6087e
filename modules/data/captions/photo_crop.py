"""Crops of photos in memory, for training and for evaluation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modules.data.image import augment
from modules.data.image.user_images import read_fitted
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least, check_image_shape


class PhotoCrop:
    """Crops squares, each standardised to mean 0 and variance 1: at random in training, in the centre otherwise."""

    def __init__(self, photo_size: int, image_shape: Sequence[int], num_features: int, flip: bool, turn: bool) -> None:
        """
        Args:
            photo_size: side of the square that photos are resized to before the crop.
            image_shape: [3, height, width] of the crop; height and width are equal.
            num_features: the product of image_shape.
            flip: mirror training photos at random, left and right.
            turn: rotate training photos by a random multiple of 90 degrees.
        """
        channels, height, width = check_image_shape("data", image_shape, num_features)
        if channels != 3 or height != width:
            raise ValueError(
                f"data wants image_shape=[3, size, size], but got {list(image_shape)}; set data.image_shape=[3,{width},{width}]"
            )
        check_at_least("data", height, photo_size=photo_size)
        self.photo_size, self.size, self.flip, self.turn = photo_size, height, flip, turn

    def centre(self, photos: Tensor) -> Tensor:
        """Crop the centre.

        Args:
            photos: uint8 [batch, 3, photo_size, photo_size].

        Returns:
            float [batch, 3, size, size].
        """
        return augment.standardise(augment.centre_crop(photos, self.size).float())

    def random(self, photos: Tensor, random: ExampleRandom) -> Tensor:
        """Crop at a random position, mirror and rotate; shapes as `centre`."""
        crops = augment.random_crop(photos, self.size, random)
        if self.flip:
            crops = augment.random_flip(crops, random)
        if self.turn:
            turned = torch.stack([torch.rot90(crops, quarters, (2, 3)) for quarters in range(4)])
            crops = turned[random.integers(4), torch.arange(len(crops))]
        return augment.standardise(crops.float())

    def read(self, paths: Sequence[str]) -> Tensor:
        """Read photos of a user as in evaluation, float [photos, 3, size, size].

        Raises:
            UserInputError: an image cannot be read.
        """
        return self.centre(read_fitted(paths, (3, self.photo_size, self.photo_size)))
