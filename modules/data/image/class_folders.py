"""Lists photos in one folder per class. Imports no torch, because a configuration is composed with it."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from modules.data.image.decoding import ENDINGS
from modules.data.own.folds import find_fold
from modules.data.own.locate import find_root

SPLITS: Final = ("train", "val", "test")
_SYSTEM_FOLDERS = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information")
"""Folders that archivers and file systems add, besides hidden ones; they are neither classes nor parts of one."""
_NAMES: Final = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


class ClassFolders:
    """The photos of ``path/SPLIT/CLASS/``.

    A photo is a file with an ending of `decoding.ENDINGS`, in the folder of its class or a folder below it. Hidden files and
    folders are left out. A split that has the folder of "train" gets a part of its photos.
    """

    def __init__(
        self, path: Path, folder: str, split_folders: Mapping[str, str], held_out_share: float,
        fold: int | None = None, num_folds: int = 5,
    ) -> None:  # fmt: skip
        """
        Args:
            path: of the data set.
            folder: its name in the configuration, for messages.
            split_folders: folder by split.
            held_out_share: of the photos of a class, for each split that shares the folder of "train"; 0: it has the same
                photos.
            fold: the part of the photos of a class besides the test's that validates; None: ``held_out_share`` of them.
            num_folds: number of these parts.

        Raises:
            ValueError: there is a fold, but validation has a folder of its own.
        """
        if fold is not None and split_folders["val"] != split_folders["train"]:
            raise ValueError(
                f"data.fold={fold} takes validation photos from {split_folders['train']}/, but {split_folders['val']}/ has some; "
                f"set data.fold=null, or data.split_folders={{val: {split_folders['train']}}}"
            )
        self.fold, self.num_folds = fold, num_folds
        self.path, self.folder = path, folder
        self.split_folders = split_folders
        self.held_out_share = held_out_share

    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers.

        Raises:
            ValueError: the folder of the training split cannot be listed.
        """
        return sorted(entry.name for entry in self._scan(self.path / self.split_folders["train"]) if entry.is_dir())

    def photos(self, split: str) -> tuple[list[str], list[int], Counter[str]]:
        """Return the paths of photos below the folder of the split, their class numbers, and other files by ending.

        Raises:
            ValueError: a class has no photos or is not a class of the training split, or a link leads to nothing.
        """
        train, own = self.split_folders["train"], self.split_folders[split]
        classes = self.classes()
        names, targets, dropped = list[str](), list[int](), Counter[str]()
        for name in sorted(entry.name for entry in self._scan(self.path / own) if entry.is_dir()):
            folder = self.path / own / name
            if name not in classes:
                raise ValueError(
                    f"data.folder={self.folder!r}: {folder} is a class that the training split does "
                    f"not have; every split needs the same folders; remove it, or add {self.path / train / name}"
                )
            images, others = self._list(folder)
            if not images and (others or split == "train"):
                raise ValueError(
                    f"data.folder={self.folder!r}: {folder} has no photo, but {count(others) or 'no file at all'}; photos are "
                    f"files that end in {', '.join(ENDINGS)}; convert them, or remove the folder and lower data.num_classes"
                )
            images = self._part(images, split)
            dropped += others
            names += [f"{name}/{image}" for image in images]
            targets += [classes.index(name)] * len(images)
        if not names:
            raise ValueError(
                f"data.folder={self.folder!r}: {self.path / own} has no images; a split needs files that end in "
                f"{', '.join(ENDINGS)} in one folder per class; put them there"
            )
        return names, targets, dropped

    def _part(self, images: list[str], split: str) -> list[str]:
        """The photos of a class that a split gets: in the order of a hash of their names, which new photos do not change."""
        shared = [each for each in SPLITS[1:] if self.split_folders[each] == self.split_folders["train"]]
        if split not in ("train", *shared) or not shared:
            return images
        if not self.held_out_share and (self.fold is None or split == "test"):
            return images
        order = sorted(images, key=lambda image: hashlib.sha256(os.fsencode(image)).digest())
        size = max(1, round(len(order) * self.held_out_share)) if len(order) > len(shared) else 0
        size = size if self.held_out_share else 0
        if self.fold is not None and split != "test":
            rest = [*order[: size * shared.index("test")], *order[size * len(shared) :]] if "test" in shared else order
            part = find_fold(len(rest), self.fold, self.num_folds)
            return sorted(rest[part] if split == "val" else [*rest[: part.start], *rest[part.stop :]])
        start = size * shared.index(split) if split in shared else size * len(shared)
        return sorted(order[start : start + size] if split in shared else order[start:])

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
                raise ValueError(
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
            raise ValueError(
                f"data.folder={self.folder!r}: {path} cannot be listed ({err.strerror}); the set needs the folders "
                f"{wanted} with one folder per class; set LATHE_DATA to the folder that holds {self.folder!r}"
            ) from err


def find_split_folders(path: Path) -> dict[str, str]:
    """The folder of each split: by its usual names; without one the folder of the training photos; "." without that.

    Args:
        path: of the data set.

    Raises:
        ValueError: it cannot be listed.
    """
    try:
        below = {entry.name.lower(): entry.name for entry in os.scandir(path) if entry.is_dir()}
    except OSError as err:
        raise ValueError(f"{path} cannot be listed ({err.strerror}); name a folder of photos") from err
    found = {split: next((below[name] for name in names if name in below), "") for split, names in _NAMES.items()}
    train = found["train"] or "."
    return {split: (folder if found["train"] else "") or train for split, folder in found.items()}


def find_auto_values(data: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `ImageFolder` that its folders determine.

    Raises:
        ValueError: the folder is missing, or has no photos in one folder per class.
    """
    root = find_root(data, "folder")
    path, size = Path(root, str(data["folder"])), int(data["image_size"])
    found = data["split_folders"]
    split_folders = find_split_folders(path) if found == "auto" else {name: name for name in SPLITS} | (found or {})
    fold, num_folds = data.get("fold"), int(data.get("num_folds", 5))
    folders = ClassFolders(path, str(data["folder"]), split_folders, float(data["held_out_share"]), fold, num_folds)
    classes = folders.classes()
    if len(classes) < 2:
        raise ValueError(
            f"data.folder={data['folder']!r}: {path / split_folders['train']} has {len(classes)} folders, but every class needs "
            "one, and there are at least two classes; put the photos of each class into a folder with its name"
        )
    return {
        "root": root, "split_folders": split_folders, "num_classes": len(classes),
        "num_train": len(folders.photos("train")[0]), "image_shape": [3, size, size], "num_features": 3 * size * size,
    }  # fmt: skip


def count(endings: Counter[str]) -> str:
    """Such as ``3 .txt, 1 .json``, the most frequent first."""
    shown = [f"{number} {ending}" for ending, number in endings.most_common(5)]
    return ", ".join([*shown, "..."] if len(endings) > 5 else shown)
