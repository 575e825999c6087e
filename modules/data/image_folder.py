"""Photos in one folder per class, read on demand: for data sets larger than the memory."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch, ComponentWarning, DataError
from modules.data.image.decoding import ENDINGS
from modules.data.image.image_crop import UnreadableError, make_image_crop
from modules.data.tensors import check_at_least, check_split

_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that archivers and file systems add, besides hidden ones; they are neither classes nor parts of one."""


class ImageFolder:
    """Photos of ``root/folder/{train,val,test}/CLASS/``; class ids follow the order of the names.

    A photo is a file with an ending of `decoding.ENDINGS`, in the folder of its class or a folder below it. Hidden files and
    folders are left out. See `ImageCrop` for how photos are cropped.
    """

    is_component = True

    takes: Final = "image"

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
        min_scale: float | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        split_folders: Mapping[str, str] | None = None,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: the folder of this data set below root.
            num_train: number of training photos, the length of an epoch; None: training counts steps only.
            resize_size: shorter side of a photo before the crop.
            image_size: side of the square crop.
            augment: crop and mirror training photos at random; otherwise, and in evaluation, crop the centre.
            image_shape: [3, image_size, image_size].
            num_features: 3 * image_size * image_size.
            num_classes: number of folders of the training split.
            min_scale: random crops have at least this fraction of the area of a photo; None: random crops are squares of
                the resized photo.
            mean: of red, green and blue in [0, 1], subtracted.
            std: of red, green and blue, the divisor.
            split_folders: folder by split; the default is the name of the split.
        """
        check_at_least("ImageFolder", 1, num_classes=num_classes)
        self.crop = make_image_crop(
            "ImageFolder", resize_size, image_size, image_shape, num_features, min_scale, mean, std
        )
        if not folder:
            raise ValueError("ImageFolder wants a folder below root, but got ''; set data.folder")
        self.split_folders = {"train": "train", "val": "val", "test": "test", **(split_folders or {})}
        if unknown := sorted(self.split_folders.keys() - {"train", "val", "test"}):
            raise ValueError(
                f"ImageFolder wants split_folders of train, val and test, but got {unknown}; leave them out"
            )
        self.folder = folder
        self.num_train = num_train
        self.path = Path(root).expanduser().absolute() / folder
        self.augment = augment
        self.image_shape = tuple(image_shape)
        self.num_classes = num_classes

    def load(self, split: str) -> ImageSplit:
        check_split("ImageFolder", split)
        train, own = self.split_folders["train"], self.split_folders[split]
        classes = self._subfolders(train)
        if len(classes) != self.num_classes:
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / train} has {len(classes)} folders, but "
                f"data.num_classes={self.num_classes}; every class needs one folder; set data.num_classes={len(classes)}"
            )
        self.class_names = classes
        names: list[bytes] = []
        targets: list[int] = []
        dropped = Counter[str]()
        for name in self._subfolders(own):
            folder = self.path / own / name
            if name not in classes:
                raise DataError(
                    f"data.folder={self.folder!r}: {folder} is a class that the training split does "
                    f"not have; every split needs the same folders; remove it, or add {self.path / train / name}"
                )
            images, others = self._list(folder)
            if not images and (others or split == "train"):
                raise DataError(
                    f"data.folder={self.folder!r}: {folder} has no photo, but {_count(others) or 'no file at all'}; photos are "
                    f"files that end in {', '.join(ENDINGS)}; convert them, or remove the folder and lower data.num_classes"
                )
            dropped += others
            names += [os.fsencode(f"{name}/{image}") for image in images]
            targets += [classes.index(name)] * len(images)
        if not names:
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / own} has no images; a split needs files that end in "
                f"{', '.join(ENDINGS)} in one folder per class; put them there"
            )
        if dropped:
            warnings.warn(
                f"data.folder={self.folder!r}: {self.path / own} has {len(names)} photos and {dropped.total()} other files, "
                f"which are left out ({_count(dropped)}); photos end in {', '.join(ENDINGS)}",
                ComponentWarning,
                stacklevel=2,
            )
        if split == "train" and self.num_train not in (None, len(names)):
            raise DataError(
                f"data.folder={self.folder!r}: {self.path / own} has {len(names)} images, but "
                f"data.num_train={self.num_train}; it is the length of an epoch; set data.num_train={len(names)}"
            )
        return ImageSplit(
            self, self.path / own, self.augment and split == "train", np.array(names), torch.tensor(targets)
        )

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read photos of a user, see `ImageCrop.read`."""
        return self.crop.read(inputs)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, *self.image_shape), torch.zeros(batch_size, dtype=torch.int64)

    def _subfolders(self, split: str) -> list[str]:
        return sorted(entry.name for entry in self._scan(self.path / split) if entry.is_dir())

    def _list(self, folder: Path, above: tuple[str, ...] = ()) -> tuple[list[str], Counter[str]]:
        """The photos of a class by their sorted paths below its folder, and the number of other files by ending."""
        images, others = list[str](), Counter[str]()
        above = (*above, os.path.realpath(folder))
        for entry in self._scan(folder):
            if entry.is_dir():
                if os.path.realpath(entry.path) not in above:  # else a link leads back to where it is
                    nested, more = self._list(Path(entry.path), above)
                    images += [f"{entry.name}/{name}" for name in nested]
                    others += more
            elif not entry.name.lower().endswith(ENDINGS):
                others[Path(entry.name).suffix.lower() or "without an ending"] += 1
            elif entry.is_file():
                images.append(entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                raise DataError(
                    f"data.folder={self.folder!r}: {entry.path} is a link to {os.readlink(entry.path)}, which does not exist; "
                    "every photo must be readable; restore the file or remove the link"
                )
            else:
                others["no file, such as a named pipe"] += 1
        return sorted(images), others

    def _scan(self, path: Path) -> list[os.DirEntry[str]]:
        """The entries of a folder, without hidden ones and those of the system."""
        try:
            with os.scandir(path) as entries:
                return [each for each in entries if not each.name.startswith(".") and each.name not in _SYSTEM_FOLDERS]
        except OSError as err:
            *others, last = dict.fromkeys(self.split_folders.values())
            wanted = f"{', '.join(others)} and {last}" if others else last
            raise DataError(
                f"data.folder={self.folder!r}: {path} cannot be listed ({err.strerror}); the set needs the folders "
                f"{wanted} with one folder per class; set LATHE_DATA to the folder that holds {self.folder!r}"
            ) from err


class ImageSplit:
    """Reads and decodes the photos of a batch, which is slow enough for worker processes."""

    in_memory = False

    def __init__(self, data: ImageFolder, path: Path, is_augmented: bool, names: np.ndarray, targets: Tensor) -> None:
        """
        Args:
            data: its arguments say how photos are cropped.
            path: the folder of the split.
            is_augmented: crop and mirror at random.
            names: bytes [images], paths below the folder of the split. An array: reference counts of a list would make
                every worker copy the list, page by page.
            targets: int64 [images].
        """
        self.data = data
        self.path = path
        self.is_augmented = is_augmented
        self.names = names
        self.targets = targets

    def __len__(self) -> int:
        return len(self.names)

    def file_sizes(self) -> np.ndarray:
        """Bytes of every file, int64 [images]; 0 for a file that is gone."""
        sizes = np.zeros(len(self.names), np.int64)
        for number, name in enumerate(self.names):
            with suppress(OSError):
                sizes[number] = os.stat(os.path.join(os.fsencode(self.path), name)).st_size
        return sizes

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        paths = [self.path / os.fsdecode(self.names[index]) for index in indices.tolist()]
        try:
            inputs = self.data.crop.batch(paths, seeds if self.is_augmented else None)
        except UnreadableError as err:
            raise DataError(
                f"data.folder={self.data.folder!r}: {paths[err.number]} cannot be read as an image ({err.reason}); every file "
                f"of a split must be an image; replace or remove it"
            ) from err
        return inputs, self.targets.index_select(0, indices)


def _count(endings: Counter[str]) -> str:
    """Such as ``3 .txt, 1 .json``, the most frequent first."""
    shown = [f"{count} {ending}" for ending, count in endings.most_common(5)]
    return ", ".join([*shown, "..."] if len(endings) > 5 else shown)
