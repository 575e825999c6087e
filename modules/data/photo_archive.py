"""Photos of one size, as JPEG or PNG files in NumPy archives, with the augmentation of TensorFlow's CIFAR-10 tutorial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Final

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from modules.data.base import Batch, DataError
from modules.data.files import DataFiles
from modules.data.image import augment as photos
from modules.data.image.user_images import read_fitted
from modules.data.tensors import TensorSplit, check_at_least, check_image_shape, check_split, hold_back

Part = tuple[Tensor, Tensor]
"""Photos, uint8 [photos, channels, height, width], and their classes, int64 [photos]."""


class PhotoArchive:
    """Photos, cropped and each brought to mean 0 and variance 1, and their classes.

    An archive has the members ``jpeg``, files laid end to end, ``offsets``, where they begin and the last one ends, ``labels``
    and, where classes are chosen by name, ``classes``. One archive alone says with ``split`` which photos train (0) and
    which test (1). Source of what is done to a photo: https://www.tensorflow.org/versions/r0.10/tutorials/deep_cnn.
    """

    takes: Final = "image"

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
        classes: Sequence[str] | None = None,
        shuffle_seed: int | None = None,
        photo_size: Sequence[int] | None = None,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: that of this set.
            files: name to sha256; names with ``train`` in them to train and validate, one with ``test``; or one for all.
            num_train: photos to train on, the first of the training part; fewer make a smaller set.
            num_val: photos to validate on, the last of the training part.
            crop_size: side of the square that the model sees; that of the photos leaves them whole.
            augment: crop anywhere, mirror and change brightness and contrast by chance in training; evaluation, and
                training without it, see the middle.
            image_shape: [channels, crop_size, crop_size]; 3 channels, or 1 to see grey.
            num_features: channels * crop_size * crop_size.
            num_classes: labels lie below it.
            classes: those that are kept, by name, numbered in this order; null keeps all.
            shuffle_seed: of the order that the training part is brought to, for archives that lie sorted by class; null: as
                they lie.
            photo_size: [height, width] of the archives' photos, to which others are brought before the crop; null: as the
                archives say, which are looked at for it.
        """
        self.train_names = sorted(name for name in files if "train" in name)
        self.test_names = sorted(name for name in files if "test" in name)
        is_one = len(files) == 1
        if not is_one and (
            not self.train_names or len(self.test_names) != 1 or len(self.train_names) + 1 != len(files)
        ):
            raise ValueError(
                f"PhotoArchive wants data.files with one name, or with 'train' in the names of all but one and 'test' in that "
                f"of the one, but got {sorted(files)}"
            )
        if photo_size is not None and (len(photo_size) != 2 or min(photo_size) < crop_size):
            raise ValueError(
                f"PhotoArchive wants photo_size as [height, width], each at least crop_size={crop_size}, but got "
                f"{list(photo_size)}; see data.photo_size"
            )
        check_at_least(
            "PhotoArchive", 1, num_train=num_train, num_val=num_val, num_classes=num_classes, crop_size=crop_size
        )
        self.image_shape = check_image_shape("PhotoArchive", image_shape, num_features)
        channels = self.image_shape[0]
        if channels not in (1, 3) or self.image_shape[1:] != (crop_size, crop_size):
            raise ValueError(
                f"PhotoArchive wants image_shape=[3, crop_size, crop_size], or 1 for grey, but got {list(image_shape)} and "
                f"crop_size={crop_size}; set data.image_shape=[3,{crop_size},{crop_size}]"
            )
        if classes is not None and len(set(classes)) != num_classes:
            raise ValueError(
                f"PhotoArchive wants as many different data.classes as data.num_classes={num_classes}, but got {list(classes)}; "
                f"set data.num_classes={len(set(classes))}"
            )
        self.files = DataFiles(root, folder, files)
        if is_one:
            self.train_names = self.test_names = sorted(files)
        self.num_train, self.num_val = num_train, num_val
        self.crop_size = crop_size
        self.augment = augment
        self.num_classes = num_classes
        self.classes = None if classes is None else list(classes)
        self.class_names = self.classes
        self.photo_size = None if photo_size is None else tuple(photo_size)
        self.shuffle_seed = shuffle_seed
        self._parts: dict[str, Part] = {}  # train and val are slices of one part, decoded once

    def load(self, split: str) -> TensorSplit:
        check_split("PhotoArchive", split)
        images, labels = self._part("test" if split == "test" else "train")
        if split == "test":
            return TensorSplit(images, labels, self._see_the_middle)
        distorts = self.augment and split == "train"
        images, labels = hold_back(split, images, labels, self.num_train, self.num_val)
        return TensorSplit(images, labels, self._distort if distorts else self._see_the_middle)

    def read(self, given: Sequence[str]) -> Tensor:
        """Brought to the size of the archives' photos, and then as evaluation sees those."""
        height, width = self._photo_size()
        images = read_fitted(given, (self.image_shape[0], height, width))
        return self._see_the_middle(images, Generator())

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)

    def _photo_size(self) -> tuple[int, ...]:
        if self.photo_size is None:
            name = self.test_names[0]
            try:
                members = self.files.read_npz(name)
            except DataError as err:
                told = f"{err}; or say how large its photos are, such as data.photo_size=[64,64]"
                raise DataError(told) from err
            with self.files.decoding(name):
                first, last, *_ = members["offsets"].tolist()
                self.photo_size = tuple(self._decode([members["jpeg"][first:last].tobytes()], [0]).shape[2:])
        return self.photo_size

    def _see_the_middle(self, images: Tensor, generator: Generator) -> Tensor:
        return photos.standardise(photos.centre_crop(images, self.crop_size).float())

    def _distort(self, images: Tensor, generator: Generator) -> Tensor:
        crops = photos.random_flip(photos.random_crop(images, self.crop_size, generator), generator).float()
        # As in the tutorial, where the brightness has no effect either: standardising takes it away (tensorflow #1458).
        bright = photos.random_brightness(crops, 63.0, generator)
        return photos.standardise(photos.random_contrast(bright, 0.2, 1.8, generator))

    def _part(self, part: str) -> Part:
        if part not in self._parts:
            names = self.test_names if part == "test" else self.train_names
            images, labels = zip(*(self._read(name, part) for name in names), strict=True)
            found = torch.cat(images), torch.cat(labels)
            if part == "train" and self.shuffle_seed is not None:
                # NumPy promises RandomState's numbers for ever.
                order = torch.from_numpy(np.random.RandomState(self.shuffle_seed).permutation(len(found[1])))
                found = found[0][order], found[1][order]
            self._parts[part] = found
        return self._parts[part]

    def _read(self, name: str, part: str) -> Part:
        members = self.files.read_npz(name)
        with self.files.decoding(name):
            labels, rows = members["labels"].astype(np.int64), np.arange(len(members["labels"]))
            offsets = members["offsets"].tolist()
            if len(labels) != len(offsets) - 1:
                raise ValueError(f"it has {len(labels)} labels for {len(offsets) - 1} photos")
            if len(self.files.files) == 1:
                rows = rows[members["split"] == (part == "test")]
            if self.classes is None and len(members.get("classes", ())) == self.num_classes:
                self.class_names = members["classes"].tolist()
            if self.classes is not None:
                labels = self._renumbered(labels, members["classes"].tolist(), name)
                rows = rows[labels[rows] >= 0]
            labels = labels[rows]
            if len(rows) == 0 or int(labels.max()) >= self.num_classes:
                raise ValueError(
                    f"it has {len(rows)} photos of the split {part!r}, with labels up to {int(labels.max(initial=0))}, but "
                    f"data.num_classes is {self.num_classes}"
                )
            jpeg = members["jpeg"].tobytes()
            images = self._decode([jpeg[offsets[row] : offsets[row + 1]] for row in rows.tolist()], rows.tolist())
        return images, torch.from_numpy(labels)

    def _renumbered(self, labels: np.ndarray, names: Sequence[str], file: str) -> np.ndarray:
        """Labels counted over the chosen classes, -1 for all others."""
        assert self.classes is not None
        if unknown := [name for name in self.classes if name not in names]:
            raise DataError(
                f"data.classes={self.classes}: {self.files.path / file} has no class {', '.join(unknown)}; choose among "
                f"{', '.join(names)}"
            )
        new = np.array([self.classes.index(name) if name in self.classes else -1 for name in names])
        return np.asarray(new[labels])

    def _decode(self, encoded: Sequence[bytes], rows: Sequence[int]) -> Tensor:
        """uint8 [photos, channels, height, width] from files; ``rows`` says what they are called in messages."""
        mode = "L" if self.image_shape[0] == 1 else "RGB"
        pixels: np.ndarray | None = None
        for number, content in enumerate(encoded):
            with Image.open(BytesIO(content)) as image:
                width, height = image.size
                if pixels is None:
                    if min(width, height) < self.crop_size:
                        raise ValueError(f"its photos are {width}x{height}, but data.crop_size is {self.crop_size}")
                    pixels = np.empty((len(encoded), height, width, len(mode)), np.uint8)
                if (height, width) != pixels.shape[1:3]:
                    raise ValueError(
                        f"photo {rows[number]} has the size {width}x{height}, not {pixels.shape[2]}x{pixels.shape[1]}"
                    )
                pixels[number] = np.asarray(image.convert(mode)).reshape(pixels.shape[1:])
        assert pixels is not None
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
