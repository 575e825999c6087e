"""Reads the files of a split in one folder per class."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from modules.data.base import Batch, DataError
from modules.data.own.class_folders import SPLITS, ClassFolders, FileKind, count
from modules.data.own.folds import check_fold
from modules.data.own.skipping import check_on_bad_example, warn, warn_skipped
from modules.data.tensors import check_at_least, check_split


class UnreadableError(Exception):
    """A file of a batch cannot be read.

    Attributes:
        number: its position among the files.
        reason: the message of the decoder.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number, self.reason = number, reason


Decode = Callable[[Sequence[Path], Tensor | None], Tensor]
"""Reads the inputs of files, float [files, ...]; the seeds of augmentation are int64 [files], or None without it.

Raises `UnreadableError` for a file that cannot be read.
"""


class FolderSplit:
    """Reads and decodes the files of a batch, which is slow enough for worker processes."""

    in_memory = False

    def __init__(
        self, data: ClassFolderData, path: Path, is_augmented: bool, names: np.ndarray, targets: Tensor
    ) -> None:
        """
        Args:
            data: decodes the files.
            path: the folder of the split.
            is_augmented: pass on the seeds.
            names: bytes [examples], paths below the folder of the split. An array: reference counts of a list would make
                every worker copy the list, page by page.
            targets: int64 [examples].
        """
        self.data = data
        self.path = path
        self.is_augmented = is_augmented
        self.names = names
        self.targets = targets

    def __len__(self) -> int:
        return len(self.names)

    def file_sizes(self) -> np.ndarray:
        """Bytes of every file, int64 [examples]; 0 for a file that is gone."""
        sizes = np.zeros(len(self.names), np.int64)
        for number, name in enumerate(self.names):
            with suppress(OSError):
                sizes[number] = os.stat(os.path.join(os.fsencode(self.path), name)).st_size
        return sizes

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        paths = [self.path / os.fsdecode(self.names[index]) for index in indices.tolist()]
        try:
            inputs = self.data.decode(paths, seeds if self.is_augmented else None)
        except UnreadableError as err:
            raise DataError(
                f"{paths[err.number]} cannot be read as a {self.data.kind.noun} ({err.reason}); replace or remove it, or set "
                "data.on_bad_example=skip to train without such files"
            ) from err
        return inputs, self.targets.index_select(0, indices)


class ClassFolderData:
    """The part of a data set of files in one folder per class that does not depend on the kind of the files."""

    def __init__(
        self, owner: str, kind: FileKind, decode: Decode, root: str, folder: str, num_train: int | None,
        num_classes: int, augment: bool, split_folders: Mapping[str, str] | None, held_out_share: float,
        fold: int | None, num_folds: int, group_pattern: str | None, on_bad_example: str, skipped: Sequence[str],
    ) -> None:  # fmt: skip
        """
        Args:
            owner: class of the data set, for messages.
            kind: of the files.
            decode: reads some of them.
            others: as for `modules.data.image_folder.ImageFolder`.
        """
        check_fold(owner, fold, num_folds)
        check_at_least(owner, 1, num_classes=num_classes)
        if not folder:
            raise ValueError(f"{owner} wants a folder below root, but got ''; set data.folder")
        folders = {name: name for name in SPLITS} | dict(split_folders or {})
        if unknown := sorted(folders.keys() - set(SPLITS)):
            raise ValueError(f"{owner} wants split_folders of train, val and test, but got {unknown}; leave them out")
        if not 0 <= held_out_share < 0.5:
            raise ValueError(f"{owner} wants held_out_share of at least 0 and below 0.5, but got {held_out_share}")
        check_on_bad_example(owner, on_bad_example)
        self.owner, self.kind, self.decode, self.augment = owner, kind, decode, augment
        self.folder, self.num_train, self.num_classes = folder, num_train, num_classes
        self.path = Path(root).expanduser().absolute() / folder
        self.folders = ClassFolders(
            kind, self.path, folder, folders, held_out_share, fold, num_folds, group_pattern, skipped
        )
        self.skipped = list(skipped)

    def find_faults(self) -> list[str]:
        faults = {path: self.kind.find_fault(self.path / path) for path in self.skipped}
        return [f"{path} cannot be read as a {self.kind.noun} ({fault})" for path, fault in faults.items()]

    def find_odd_files(self) -> list[str]:
        return [f"{path} {reason}" for path, reason in self.folders.find_odd_files().items()]

    def load(self, split: str) -> FolderSplit:
        check_split(self.owner, split)
        own = self.path / self.folders.split_folders[split]
        train = self.path / self.folders.split_folders["train"]
        try:
            classes = self.folders.classes()
            if len(classes) != self.num_classes:
                raise ValueError(
                    f"data.folder={self.folder!r}: {train} has {len(classes)} folders, but "
                    f"data.num_classes={self.num_classes}; every class needs one folder; set data.num_classes={len(classes)}"
                )
            self.class_names = classes
            names, targets, dropped = self.folders.files(split)
            if split == "train" and self.num_train not in (None, len(names)):
                raise ValueError(
                    f"data.folder={self.folder!r}: {own} has {len(names)} {self.kind.noun}s, but data.num_train="
                    f"{self.num_train}; it is the length of an epoch; set data.num_train={len(names)}"
                )
        except ValueError as err:
            raise DataError(str(err)) from err
        if dropped:
            warn(
                f"data.folder={self.folder!r}: {own} has {len(names)} {self.kind.noun}s and {len(dropped)} other files, "
                f"which are left out ({count(dropped)}); {self.kind.rule}"
            )
        if split == "train" and self.skipped:
            warn_skipped(self.skipped, f"{self.kind.noun}s of {self.path}")
        paths = np.array([os.fsencode(name) for name in names])
        is_augmented = self.augment and split == "train"
        return FolderSplit(self, own, is_augmented, paths, torch.tensor(targets))
