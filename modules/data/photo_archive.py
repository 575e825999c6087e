"""Photos of one size, as JPEG or PNG files in NumPy archives, with the augmentation of TensorFlow's CIFAR-10 tutorial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch, DataError
from modules.data.files import DataFiles
from modules.data.image import augment
from modules.data.image.decoding import decode, open_image
from modules.data.image.user_images import read_fitted
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import (
    TensorSplit,
    check_at_least,
    check_image_shape,
    check_labels,
    check_split,
    hold_back,
)

Part = tuple[Tensor, Tensor]
"""Photos, uint8 [photos, channels, height, width], and their classes, int64 [photos]."""


class PhotoArchive:
    """Cropped photos, each standardised to mean 0 and variance 1, and their classes.

    Members of an archive: ``jpeg``, the concatenated files; ``offsets``, their start offsets and the end of the last one;
    ``labels``; and ``classes``, the class names, if classes are selected by name. A single archive also has ``split``: 0 for
    training, 1 for test. Source of the preprocessing: https://www.tensorflow.org/versions/r0.10/tutorials/deep_cnn.
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
            folder: folder of this data set.
            files: name to sha256: several with ``train`` in the name and one with ``test``; or a single archive.
            num_train: the first photos of the training part, to train on.
            num_val: the last photos of the training part, to validate on.
            crop_size: side of the square crop; the size of the photos means no crop.
            augment: in training, crop at a random position, mirror, and change brightness and contrast at random; otherwise
                crop the centre.
            image_shape: [channels, crop_size, crop_size]; 3 channels, or 1 for grey images.
            num_features: channels * crop_size * crop_size.
            num_classes: all labels are below it.
            classes: names of the classes to use, numbered in this order; null: all classes.
            shuffle_seed: seed to shuffle the training part, for archives that are sorted by class; null: no shuffling.
            photo_size: [height, width] of the photos in the archives; images of a user are resized to it before the crop;
                null: read it from an archive.
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
        self._parts: dict[str, Part] = {}  # train and val are slices of one part, which is decoded once

    def load(self, split: str) -> TensorSplit:
        check_split("PhotoArchive", split)
        images, labels = self._part("test" if split == "test" else "train")
        if split == "test":
            return TensorSplit(images, labels, self._crop_centre)
        distorts = self.augment and split == "train"
        images, labels = hold_back(split, images, labels, self.num_train, self.num_val)
        return TensorSplit(images, labels, self._distort if distorts else self._crop_centre)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Resize images to the size of the photos in the archives, and crop the centre."""
        height, width = self._photo_size()
        images = read_fitted(inputs, (self.image_shape[0], height, width))
        return self._crop_centre(images)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)

    def _photo_size(self) -> tuple[int, ...]:
        if self.photo_size is None:
            name = self.test_names[0]
            try:
                members = self.files.read_npz(name)
            except DataError as err:
                raise DataError(f"{err}; or set the size of its photos, such as data.photo_size=[64,64]") from err
            with self.files.decoding(name):
                first, last, *_ = members["offsets"].tolist()
                self.photo_size = tuple(self._decode([members["jpeg"][first:last].tobytes()], [0]).shape[2:])
        return self.photo_size

    def save_reader(self) -> Any:
        return list(self._photo_size())

    def restore_reader(self, saved: Any) -> None:
        self.photo_size = tuple(saved)

    def _crop_centre(self, images: Tensor, seeds: Tensor | None = None) -> Tensor:
        return augment.standardise(augment.centre_crop(images, self.crop_size).float())

    def _distort(self, images: Tensor, seeds: Tensor) -> Tensor:
        random = ExampleRandom(seeds)
        crops = augment.random_flip(augment.random_crop(images, self.crop_size, random), random).float()
        # As in the tutorial, where the brightness has no effect either: standardising removes it (tensorflow #1458).
        bright = augment.random_brightness(crops, 63.0, random)
        return augment.standardise(augment.random_contrast(bright, 0.2, 1.8, random))

    def _part(self, part: str) -> Part:
        if part not in self._parts:
            names = self.test_names if part == "test" else self.train_names
            images, labels = zip(*(self._read(name, part) for name in names), strict=True)
            if len({image.shape[2:] for image in images}) > 1:
                sizes = ", ".join(
                    f"{name} {image.shape[3]}x{image.shape[2]}" for name, image in zip(names, images, strict=True)
                )
                raise DataError(
                    f"data.folder={self.files.folder!r}: the archives have photos of different sizes ({sizes}); all photos must "
                    "have one size; create the archives again"
                )
            photos, classes = torch.cat(images), torch.cat(labels)
            if part == "train" and self.shuffle_seed is not None:
                # NumPy keeps RandomState's sequence stable.
                order = torch.from_numpy(np.random.RandomState(self.shuffle_seed).permutation(len(classes)))
                photos, classes = photos[order], classes[order]
            self._parts[part] = photos, classes
        return self._parts[part]

    def _read(self, name: str, part: str) -> Part:
        members = self.files.read_npz(name)
        with self.files.decoding(name):
            check_labels(members["labels"])
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
        """Map labels to the selected classes, and all other classes to -1."""
        assert self.classes is not None
        if unknown := [name for name in self.classes if name not in names]:
            raise DataError(
                f"data.classes={self.classes}: {self.files.path / file} has no class {', '.join(unknown)}; choose among "
                f"{', '.join(names)}"
            )
        new = np.array([self.classes.index(name) if name in self.classes else -1 for name in names])
        return np.asarray(new[labels])

    def _decode(self, encoded: Sequence[bytes], rows: Sequence[int]) -> Tensor:
        """Decode files to uint8 [photos, channels, height, width]; ``rows`` are their numbers for messages."""
        mode: Literal["L", "RGB"] = "L" if self.image_shape[0] == 1 else "RGB"
        pixels: np.ndarray | None = None
        for number, content in enumerate(encoded):
            with open_image(content) as image:
                photo = decode(image, mode)
            width, height = photo.size
            if pixels is None:
                if min(width, height) < self.crop_size:
                    raise ValueError(f"its photos are {width}x{height}, but data.crop_size is {self.crop_size}")
                pixels = np.empty((len(encoded), height, width, len(mode)), np.uint8)
            if (height, width) != pixels.shape[1:3]:
                raise ValueError(
                    f"photo {rows[number]} has the size {width}x{height}, not {pixels.shape[2]}x{pixels.shape[1]}"
                )
            pixels[number] = np.asarray(photo).reshape(pixels.shape[1:])
        assert pixels is not None
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
