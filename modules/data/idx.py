"""Images and labels in LeCun's idx format: MNIST and its replacements."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch
from modules.data.files import DataFiles, decompress
from modules.data.tensors import TensorSplit, check_at_least, check_image_shape, check_split, hold_back, scale_pixels

_NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}


class IdxImages:
    """Grey images in [0, 1] and their classes. The last images of the training files are the validation split.

    Source of the format: http://yann.lecun.com/exdb/mnist; of the split: TensorFlow's MNIST tutorials.
    """

    is_component = True

    takes: Final = "image"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        num_train: int,
        num_val: int,
        image_shape: Sequence[int],
        num_features: int,
        num_classes: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of the four files, with LeCun's names.
            num_train: the first images of the training files, to train on.
            num_val: the last images of the training files, to validate on.
            image_shape: [1, height, width].
            num_features: height * width.
            num_classes: all labels are below it.
        """
        self.names = idx_names("IdxImages", files)
        check_at_least("IdxImages", 1, num_train=num_train, num_val=num_val, num_classes=num_classes)
        self.files = DataFiles(root, folder, files)
        self.num_train, self.num_val = num_train, num_val
        self.image_shape = check_image_shape("IdxImages", image_shape, num_features)
        self.num_classes = num_classes
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}  # train and val are slices of one file, read once

    def load(self, split: str) -> TensorSplit:
        check_split("IdxImages", split)
        images, labels = self._part("test" if split == "test" else "train")
        if split != "test":
            images, labels = hold_back(split, images, labels, self.num_train, self.num_val)
        return TensorSplit(images, labels, scale_pixels)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Resize images to the size of the set. If the set shows bright objects on dark, these images must too."""
        from modules.data.image.user_images import read_fitted

        return scale_pixels(read_fitted(inputs, self.image_shape))

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)

    def _part(self, part: str) -> tuple[Tensor, Tensor]:
        if part not in self._parts:
            self._parts[part] = self._read_part(part)
        return self._parts[part]

    def _read_part(self, part: str) -> tuple[Tensor, Tensor]:
        images_name, labels_name = self.names[part]
        content = self.files.read(images_name)
        with self.files.decoding(images_name):
            images = decode_idx(content, num_dims=3)
            _, *size = images.shape
            if (1, *size) != self.image_shape:
                raise ValueError(f"its images are {size}, but data.image_shape is {list(self.image_shape)}")
        content = self.files.read(labels_name)
        with self.files.decoding(labels_name):
            labels = decode_idx(content, num_dims=1)
            if len(labels) != len(images):
                raise ValueError(f"it has {len(labels)} labels for {len(images)} images")
            if int(labels.max(initial=0)) >= self.num_classes:
                raise ValueError(f"it has the label {labels.max()}, but data.num_classes is {self.num_classes}")
        return torch.from_numpy(images).reshape(-1, *self.image_shape), torch.from_numpy(labels).long()


def idx_names(owner: str, files: Mapping[str, str | None]) -> Mapping[str, tuple[str, str]]:
    """Return the names of the files of images and labels, of "train" and "test".

    Raises:
        ValueError: ``files`` has other names.
    """
    wanted = {name for names in _NAMES.values() for name in names}
    if set(files) != wanted:
        raise ValueError(f"{owner} wants data.files with {sorted(wanted)}, but got {sorted(files)}")
    return _NAMES


def decode_idx(content: bytes, num_dims: int) -> np.ndarray:
    """Decode an idx file: a big-endian magic number, one size per dimension, then uint8.

    Raises:
        ValueError: the content has another format, or is incomplete.
    """
    plain = decompress(content)
    head = 4 + 4 * num_dims
    if len(plain) < head:
        raise ValueError(f"{len(plain)} bytes are too few for an idx file")
    magic, *shape = struct.unpack(f">{1 + num_dims}i", plain[:head])
    if magic != 2048 + num_dims:
        raise ValueError(f"its magic number is {magic}, not {2048 + num_dims}")
    if len(plain) - head != np.prod(shape):
        raise ValueError(f"its header says {shape}, but it has {len(plain) - head} bytes")
    return np.frombuffer(bytearray(plain), np.uint8, offset=head).reshape(shape)
