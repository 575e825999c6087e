"""Photos with masks that hold the class of every pixel, from NumPy archives of JPEG and PNG files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from modules.data.base import IGNORED, Batch, DataError
from modules.data.files import DataFiles
from modules.data.image.encoded_images import Mode, check_members, decode_all
from modules.data.image.group_split import GroupSplit
from modules.data.image.masked_images import Distortion, MaskedImage, MaskedImages, read_whole
from modules.data.tensors import check_at_least, check_image_shape, check_split


class MaskArchive:
    """Crops of photos to train on and whole photos to evaluate on, each with the classes of its pixels.

    The name of a photo gives its group (both eyes of one child, all tiles of one town); no group is in two splits.
    With masks of a second annotator, targets are both masks: the first is the truth, the second measures human agreement.
    """

    is_component = True

    takes: Final = "image"

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        photos: Sequence[str],
        masks: Sequence[str],
        second_masks: Sequence[str] | None,
        names: str | None,
        positive_values: Sequence[int] | None,
        ignored_values: Sequence[int],
        group_pattern: str,
        shuffle_seed: int | None,
        num_val_groups: int,
        num_test_groups: int,
        crops_per_photo: int,
        num_train: int | None,
        flip: bool,
        turn: bool,
        jitter: float,
        image_shape: Sequence[int],
        eval_size: Sequence[int],
        num_features: int,
        num_classes: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of this data set.
            files: name to sha256 of the archives.
            photos: [bytes, offsets]: the members with the concatenated encoded photos and with their start offsets.
            masks: the same for the masks, images with one 8-bit value per pixel.
            second_masks: the same for the masks of a second annotator; null: none.
            names: the member with the names of the photos; null: the names are ``archive/number``.
            positive_values: mask values of class 1, all others are class 0; null: a value is a class.
            ignored_values: mask values that losses and metrics leave out.
            group_pattern: regular expression; its match in a name is the group of the photo.
            shuffle_seed: seed of the order of the groups; null: order of the archives.
            num_val_groups: groups to validate on, those before the test groups.
            num_test_groups: the last groups, to test on.
            crops_per_photo: crops of every training photo in one epoch.
            num_train: crops of one epoch; null: count only steps.
            flip: mirror crops at random, horizontally and vertically.
            turn: rotate crops by 90 degrees at random; they must be square.
            jitter: range of random changes of contrast and brightness, in standard deviations; 0: none.
            image_shape: [3, height, width] of a training crop; 1 channel for grey images.
            eval_size: [height, width] that whole photos are padded to, by reflection; padding is ignored.
            num_features: the product of image_shape.
            num_classes: 2 with positive_values.
        """
        self.image_shape = check_image_shape("MaskArchive", image_shape, num_features)
        check_at_least("MaskArchive", 1, crops_per_photo=crops_per_photo, num_classes=num_classes)
        check_members("MaskArchive", photos=photos, masks=masks, second_masks=second_masks or masks)
        _check_shapes(self.image_shape, eval_size, turn)
        _check_values(positive_values, num_classes, jitter)
        self.files = DataFiles(root, folder, files)
        self.photos, self.names, self.masks = photos, names, [masks, second_masks] if second_masks else [masks]
        self.positive_values, self.ignored_values = positive_values, list(ignored_values)
        self.groups = GroupSplit(group_pattern, shuffle_seed, num_val_groups, num_test_groups)
        self.crops_per_photo, self.num_train = crops_per_photo, num_train
        self.distortion = Distortion(flip, turn, jitter)
        self.eval_size = (eval_size[0], eval_size[1])
        self.num_classes = num_classes
        self.class_names: list[str] | None = None
        self._splits: dict[str, list[MaskedImage]] = {}  # all splits are decoded together, once

    def load(self, split: str) -> MaskedImages:
        check_split("MaskArchive", split)
        photos = self._all()[split]
        if split != "train":
            return MaskedImages(photos, self.eval_size, None)
        num_crops = len(photos) * self.crops_per_photo
        if self.num_train not in (None, num_crops):
            raise DataError(
                f"data.folder={self.files.folder!r}: {len(photos)} training photos x crops_per_photo={self.crops_per_photo} "
                f"are not data.num_train={self.num_train}, which epochs are counted by; set data.num_train={num_crops}"
            )
        _, height, width = self.image_shape
        return MaskedImages(photos, (height, width), self.distortion, self.crops_per_photo)

    def read(self, inputs: Sequence[str]) -> Tensor:
        """Read whole photos, padded to at least eval_size."""
        return read_whole(inputs, self.image_shape[0], self.eval_size)

    def example(self, batch_size: int) -> Batch:
        masks = [torch.zeros(batch_size, *self.image_shape[1:], dtype=torch.int64) for _ in self.masks]
        return torch.zeros(batch_size, *self.image_shape), masks[0] if len(masks) == 1 else tuple(masks)

    def _all(self) -> dict[str, list[MaskedImage]]:
        if not self._splits:
            archives = [self._read(name) for name in sorted(self.files.files)]
            names = [name for names, _ in archives for name in names]
            photos = [photo for _, photos in archives for photo in photos]
            splits: dict[str, list[MaskedImage]] = {"train": [], "val": [], "test": []}
            for split, photo in zip(self.groups.splits(names), photos, strict=True):
                splits[split].append(photo)
            self._splits = splits
        return self._splits

    def _read(self, name: str) -> tuple[list[str], list[MaskedImage]]:
        """Names and photos of one archive."""
        members = self.files.read_npz(name)
        with self.files.decoding(name):
            mode: Mode = "L" if self.image_shape[0] == 1 else "RGB"
            if "classes" in members:
                self.class_names = self._class_names(members["classes"].tolist())
            pixels = [image.reshape(*image.shape[:2], -1) for image in decode_all(members, self.photos, mode)]
            masks = [[self._classes(mask) for mask in decode_all(members, member, "classes")] for member in self.masks]
            known = members[self.names].tolist() if self.names is not None else range(len(pixels))
            names = [str(each) if self.names is not None else f"{name}/{each}" for each in known]
            if {len(names), *(len(each) for each in masks)} != {len(pixels)}:
                raise ValueError(
                    f"it has {len(pixels)} photos, {len(names)} names and {', '.join(str(len(m)) for m in masks)} masks"
                )
            photos = [MaskedImage(*both) for both in zip(pixels, zip(*masks, strict=True), strict=True)]
            for number, photo in enumerate(photos):
                self._check_size(names[number], photo)
        return names, photos

    def _class_names(self, names: Sequence[str]) -> list[str] | None:
        """Of the model's classes, from those of the numbers in a mask; None where there are too few."""
        if self.positive_values is None:
            return list(names[: self.num_classes]) if len(names) >= self.num_classes else None
        wanted = [names[number] for number in self.positive_values if number < len(names)]
        others = [name for name in names if name not in wanted]
        return [others[0] if len(others) == 1 else "other", "/".join(wanted)] if wanted and others else None

    def _classes(self, mask: np.ndarray) -> np.ndarray:
        """int16 [height, width] from the numbers of a mask."""
        ignored = np.isin(mask, self.ignored_values)
        classes = (
            mask.astype(np.int16)
            if self.positive_values is None
            else np.isin(mask, self.positive_values).astype(np.int16)
        )
        classes[ignored] = IGNORED
        if (highest := int(classes.max())) >= self.num_classes:
            raise DataError(
                f"data.folder={self.files.folder!r}: a mask has the class {highest}, but data.num_classes={self.num_classes}; "
                "raise it, or say which numbers are looked for (data.positive_values) or never count (data.ignored_values)"
            )
        return classes

    def _check_size(self, name: str, photo: MaskedImage) -> None:
        height, width, _ = photo.pixels.shape
        if any(mask.shape != (height, width) for mask in photo.masks):
            raise ValueError(f"photo {name} is {width}x{height}, but a mask of it {photo.masks[-1].shape[::-1]}")
        if height > self.eval_size[0] or width > self.eval_size[1]:
            raise DataError(
                f"data.folder={self.files.folder!r}: photo {name} is {height} high and {width} wide, but "
                f"data.eval_size={list(self.eval_size)}, which photos are padded to; set it to the largest height and width"
            )


def _check_shapes(image_shape: tuple[int, int, int], eval_size: Sequence[int], turn: bool) -> None:
    channels, height, width = image_shape
    if channels not in (1, 3):
        raise ValueError(f"MaskArchive wants image_shape with 3 channels, or 1 to see grey, but got {channels}")
    if turn and height != width:
        raise ValueError(f"MaskArchive wants square crops to turn them, but got {height}x{width}; set data.turn=false")
    if len(eval_size) != 2 or min(eval_size) < 1:
        raise ValueError(f"MaskArchive wants eval_size as [height, width], each at least 1, but got {list(eval_size)}")


def _check_values(positive_values: Sequence[int] | None, num_classes: int, jitter: float) -> None:
    if positive_values is not None and (num_classes != 2 or not positive_values):
        raise ValueError(
            f"MaskArchive wants data.num_classes=2 and at least one of data.positive_values, which are class 1, but got "
            f"{num_classes} and {list(positive_values)}; set data.positive_values=null where a mask's numbers are classes"
        )
    if not 0 <= jitter < 1:
        raise ValueError(f"MaskArchive wants jitter in [0, 1), but got {jitter}")
