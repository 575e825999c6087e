"""CIFAR-10 from JPEG files in NumPy archives, with the augmentation of TensorFlow's tutorial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from itertools import pairwise

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from modules.data import augment as photos
from modules.data.base import Batch
from modules.data.files import DataFiles
from modules.data.tensors import TensorSplit, check_at_least, check_image_shape, check_split, hold_back

_SIZE = 32


class Cifar10:
    """Photos, cropped and each brought to mean 0 and variance 1, and their kinds.

    Source: Krizhevsky 2009; https://www.tensorflow.org/versions/r0.10/tutorials/deep_cnn for what is done to a photo.
    """

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_train: int,
        num_val: int,
        crop_size: int,
        augment: bool,
        image_shape: Sequence[int],
        num_features: int,
        num_classes: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: that of this set.
            files: name to sha256; names with ``train`` in them to train and validate, one with ``test``.
            num_train: photos to train on, the first of the training part; fewer make a smaller set.
            num_val: photos to validate on, the last of the training part.
            crop_size: side of the square that the model sees; 32 leaves the photo whole.
            augment: crop anywhere, mirror and change brightness and contrast by chance in training; evaluation, and
                training without it, see the middle.
            image_shape: [3, crop_size, crop_size].
            num_features: 3 * crop_size * crop_size.
            num_classes: 10.
        """
        self.train_names = sorted(name for name in files if "train" in name)
        self.test_names = sorted(name for name in files if "test" in name)
        if not self.train_names or len(self.test_names) != 1 or len(self.train_names) + 1 != len(files):
            raise ValueError(
                f"Cifar10 wants data.files with 'train' in the names of all but one and 'test' in that of the one, "
                f"but got {sorted(files)}"
            )
        check_at_least("Cifar10", 1, num_train=num_train, num_val=num_val, num_classes=num_classes, crop_size=crop_size)
        self.image_shape = check_image_shape("Cifar10", image_shape, num_features)
        if crop_size > _SIZE or self.image_shape != (3, crop_size, crop_size):
            raise ValueError(
                f"Cifar10 wants crop_size of at most {_SIZE} and image_shape=[3, crop_size, crop_size], but got "
                f"{crop_size} and {list(image_shape)}; set data.image_shape=[3,{crop_size},{crop_size}]"
            )
        self.files = DataFiles(root, folder, files)
        self.num_train, self.num_val = num_train, num_val
        self.crop_size = crop_size
        self.augment = augment
        self.num_classes = num_classes
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}  # train and val are slices of one part, decoded once

    def load(self, split: str) -> TensorSplit:
        check_split("Cifar10", split)
        images, labels = self._part("test" if split == "test" else "train")
        if split == "test":
            return TensorSplit(images, labels, self._see_the_middle)
        distorts = self.augment and split == "train"
        images, labels = hold_back(split, images, labels, self.num_train, self.num_val)
        return TensorSplit(images, labels, self._distort if distorts else self._see_the_middle)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)

    def _see_the_middle(self, images: Tensor, generator: Generator) -> Tensor:
        return photos.standardise(photos.centre_crop(images, self.crop_size).float())

    def _distort(self, images: Tensor, generator: Generator) -> Tensor:
        crops = photos.random_flip(photos.random_crop(images, self.crop_size, generator), generator).float()
        # As in the tutorial, where the brightness has no effect either: standardising takes it away (tensorflow #1458).
        bright = photos.random_brightness(crops, 63.0, generator)
        return photos.standardise(photos.random_contrast(bright, 0.2, 1.8, generator))

    def _part(self, part: str) -> tuple[Tensor, Tensor]:
        if part not in self._parts:
            names = self.test_names if part == "test" else self.train_names
            images, labels = zip(*(self._read(name) for name in names), strict=True)
            self._parts[part] = torch.cat(images), torch.cat(labels)
        return self._parts[part]

    def _read(self, name: str) -> tuple[Tensor, Tensor]:
        members = self.files.read_npz(name)
        with self.files.decoding(name):
            labels = torch.from_numpy(members["labels"].astype(np.int64))
            images = _decode(members["jpeg"].tobytes(), members["offsets"].tolist())
            if len(labels) != len(images) or int(labels.max()) >= self.num_classes:
                raise ValueError(
                    f"it has {len(labels)} labels up to {int(labels.max())} for {len(images)} photos, "
                    f"but data.num_classes is {self.num_classes}"
                )
        return images, labels


def _decode(jpeg: bytes, offsets: Sequence[int]) -> Tensor:
    """uint8 [images, 3, 32, 32] from images laid end to end; image i is ``jpeg[offsets[i]:offsets[i + 1]]``."""
    pixels = np.empty((len(offsets) - 1, _SIZE, _SIZE, 3), np.uint8)
    for number, (first, last) in enumerate(pairwise(offsets)):
        with Image.open(BytesIO(jpeg[first:last])) as image:
            if image.size != (_SIZE, _SIZE):
                raise ValueError(f"image {number} has the size {image.size}, not {(_SIZE, _SIZE)}")
            pixels[number] = np.asarray(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
