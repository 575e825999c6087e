"""Photos in one folder a class, read when they are needed: for sets that are larger than the memory."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from modules.data.base import Batch, DataError
from modules.data.tensors import check_at_least, check_image_shape, check_split

_ENDINGS = (".jpg", ".jpeg", ".png")


class ImageFolder:
    """Photos of ``root/folder/{train,val,test}/CLASS/*.{jpg,jpeg,png}``; classes are numbered by their names' order.

    A photo is shrunk until its shorter side has ``resize_size`` pixels, then a square is cut out of it.
    """

    def __init__(
        self,
        root: str,
        folder: str,
        num_train: int | None,
        resize_size: int,
        image_size: int,
        augment: bool,
        image_shape: Sequence[int],
        num_features: int,
        num_classes: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: that of this set.
            num_train: photos of the training split, which an epoch is counted by; None where only steps are counted.
            resize_size: shorter side of a photo before the cut.
            image_size: side of the square that the model sees.
            augment: cut anywhere and mirror by chance in training; evaluation, and training without it, see the middle.
            image_shape: [3, image_size, image_size].
            num_features: 3 * image_size * image_size.
            num_classes: folders of the training split.
        """
        check_at_least("ImageFolder", 1, image_size=image_size, num_classes=num_classes)
        check_at_least("ImageFolder", image_size, resize_size=resize_size)
        self.image_shape = check_image_shape("ImageFolder", image_shape, num_features)
        if self.image_shape != (3, image_size, image_size):
            raise ValueError(
                f"ImageFolder wants image_shape=[3, image_size, image_size], but got {list(image_shape)} and "
                f"image_size={image_size}; set data.image_shape=[3,{image_size},{image_size}]"
            )
        if not folder:
            raise ValueError("ImageFolder wants a folder below root, but got ''; set data.folder")
        self.folder = folder
        self.num_train = num_train
        self.path = Path(root).expanduser().absolute() / folder
        self.resize_size = resize_size
        self.image_size = image_size
        self.augment = augment
        self.num_classes = num_classes

    def load(self, split: str) -> ImageSplit:
        check_split("ImageFolder", split)
        classes = self._subfolders("train")
        if len(classes) != self.num_classes:
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / 'train'} has {len(classes)} folders, but "
                f"data.num_classes={self.num_classes}; every class has one; set data.num_classes={len(classes)}"
            )
        self.class_names = classes
        names: list[bytes] = []
        targets: list[int] = []
        for name in self._subfolders(split):
            if name not in classes:
                raise DataError(
                    f"data.folder={self.folder!r}: {self.path / split / name} is a class that the training split does "
                    f"not have; every split needs the same folders; remove it, or add {self.path / 'train' / name}"
                )
            found = sorted(_images(self.path / split / name))
            names += [os.fsencode(f"{name}/{image}") for image in found]
            targets += [classes.index(name)] * len(found)
        if not names:
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / split} has no images; a split needs files that end in "
                f"{', '.join(_ENDINGS)} in one folder a class; put them there"
            )
        if split == "train" and self.num_train not in (None, len(names)):
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / split} has {len(names)} images, but "
                f"data.num_train={self.num_train}; epochs are counted by it; set data.num_train={len(names)}"
            )
        return ImageSplit(self, split, np.array(names), torch.tensor(targets))

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)

    def _subfolders(self, split: str) -> list[str]:
        path = self.path / split
        try:
            return sorted(entry.name for entry in os.scandir(path) if entry.is_dir())
        except OSError as err:
            raise DataError(
                f"data.folder={self.folder!r}: {path} cannot be listed ({err.strerror}); the set needs the folders "
                f"train, val and test with one folder a class; set LATHE_DATA to the folder that holds {self.folder!r}"
            ) from err


class ImageSplit:
    """Reads and decodes the photos of a batch; worth worker processes."""

    in_memory = False

    def __init__(self, data: ImageFolder, split: str, names: np.ndarray, targets: Tensor) -> None:
        """
        Args:
            data: what is done to a photo.
            split: the folder below that of the set.
            names: bytes [images], below the split's folder. An array, as a list's reference counts would make every
                worker copy it, page by page.
            targets: int64 [images].
        """
        self.data = data
        self.path = data.path / split
        self.distort = data.augment and split == "train"
        self.names = names
        self.targets = targets

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Tensor, generator: Generator) -> Batch:
        top, left, mirror = torch.full((3, len(indices)), 0.5)
        if self.distort:
            top, left, mirror = torch.rand(3, len(indices), generator=generator)
        inputs = torch.empty(len(indices), *self.data.image_shape)
        for row, index in enumerate(indices.tolist()):
            pixels = self._read(index, float(top[row]), float(left[row]))
            if mirror[row] < 0.5:
                pixels = pixels[:, ::-1]
            inputs[row] = torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)
        return inputs.div_(255), self.targets.index_select(0, indices)

    def _read(self, index: int, top: float, left: float) -> np.ndarray:
        """uint8 [image_size, image_size, 3]; the cut lies at ``top`` and ``left`` of what room there is, in [0, 1]."""
        path = self.path / os.fsdecode(self.names[index])
        size, resize_size = self.data.image_size, self.data.resize_size
        try:
            with Image.open(path) as image:
                image.draft(
                    "RGB", (resize_size, resize_size)
                )  # a JPEG decodes to 1/2, 1/4 or 1/8 at a fraction of the cost
                photo = image.convert("RGB")
        except (OSError, ValueError, SyntaxError) as err:
            raise DataError(
                f"data.folder={self.data.folder!r}: {path} cannot be read as an image ({err}); every file of a split "
                f"must be one; replace or remove it"
            ) from err
        width, height = photo.size
        side = min(width, height) * size / resize_size
        box = (left * (width - side), top * (height - side), left * (width - side) + side, top * (height - side) + side)
        return np.asarray(photo.resize((size, size), Image.Resampling.BILINEAR, box=box))


def _images(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(_ENDINGS)]
