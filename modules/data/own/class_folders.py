"""Lists photos or other files in one folder per class. Imports no torch, because a configuration is composed with it."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final

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


@dataclass(frozen=True)
class FileKind:
    """The files that a data set reads."""

    noun: str
    """Of one, such as "photo"."""
    endings: tuple[str, ...]
    """Of their names, in lower case."""
    find_fault: Callable[[Path], str | None]
    """Returns why a file cannot be read; None if it can."""

    @property
    def rule(self) -> str:
        return f"{self.noun}s are files that end in {', '.join(self.endings)}"


class ClassFolders:
    """The files of ``path/SPLIT/CLASS/``.

    A file counts if it has an ending of its kind and is in the folder of its class or a folder below it. Hidden files and
    folders are left out. A split that has the folder of "train" gets a part of its files.
    """

    def __init__(
        self, kind: FileKind, path: Path, folder: str, split_folders: Mapping[str, str], held_out_share: float,
        fold: int | None = None, num_folds: int = 5, group_pattern: str | None = None, skipped: Collection[str] = (),
    ) -> None:  # fmt: skip
        """
        Args:
            kind: of the files.
            path: of the data set.
            folder: its name in the configuration, for messages.
            split_folders: folder by split.
            held_out_share: of the files of a class, for each split that shares the folder of "train"; 0: it has the same
                files.
            fold: the part of the files of a class besides the test's that validates; None: ``held_out_share`` of them.
            num_folds: number of these parts.
            group_pattern: regular expression; files with the same match in their paths, such as the name of a speaker, are in
                the same part. Shares and folds are then those of the groups of all classes. None: each file counts alone.
            skipped: paths below the folder of the data set that are left out.

        Raises:
            ValueError: there is a fold, but validation has a folder of its own; or the pattern is no regular expression.
        """
        if fold is not None and split_folders["val"] != split_folders["train"]:
            raise ValueError(
                f"data.fold={fold} takes validation {kind.noun}s from {split_folders['train']}/, but {split_folders['val']}/ has "
                f"some; set data.fold=null, or data.split_folders={{val: {split_folders['train']}}}"
            )
        try:
            self.group_pattern = None if group_pattern is None else re.compile(group_pattern)
        except re.error as err:
            raise ValueError(
                f"data.group_pattern={group_pattern!r} is not a regular expression ({err}); correct it"
            ) from err
        self.kind, self.fold, self.num_folds = kind, fold, num_folds
        self.path, self.folder = path, folder
        self.split_folders = split_folders
        self.held_out_share = held_out_share
        self.skipped = frozenset(str(PurePath(each)) for each in skipped)

    def classes(self) -> list[str]:
        """Names of the classes, in the order of their numbers.

        Raises:
            ValueError: the folder of the training split cannot be listed.
        """
        return sorted(entry.name for entry in self._scan(self.path / self.split_folders["train"]) if entry.is_dir())

    def files(self, split: str) -> tuple[list[str], list[int], list[str]]:
        """Return the paths of files below the folder of the split, their class numbers, and the paths of other files.

        Raises:
            ValueError: a class has no files or is not a class of the training split, or a link leads to nothing.
        """
        listed, dropped = self._list_classes(split)
        if self.group_pattern is None:
            parts = {name: self._part(files, split) for name, files in listed.items()}
        else:
            groups = {f"{name}/{file}": self._find_group(f"{name}/{file}") for name in listed for file in listed[name]}
            chosen = set(self._part(sorted(set(groups.values())), split))
            parts = {
                name: [file for file in files if groups[f"{name}/{file}"] in chosen] for name, files in listed.items()
            }
        classes = self.classes()
        names = [f"{name}/{file}" for name, files in parts.items() for file in files]
        targets = [classes.index(name) for name, files in parts.items() for _ in files]
        if not names:
            own = self.path / self.split_folders[split]
            reason = f"{own} has no {self.kind.noun}s; a split needs files that end in "
            raise ValueError(
                f"data.folder={self.folder!r}: {reason}{', '.join(self.kind.endings)} in one folder per class; put them there"
            )
        return names, targets, dropped

    def find_faults(self) -> dict[str, str]:
        """Why files of any split cannot be read, by their paths below the folder of the data set."""
        faults = {path: self.kind.find_fault(self.path / path) for path in self._list_all()}
        return {path: fault for path, fault in faults.items() if fault is not None}

    def find_odd_files(self) -> dict[str, str]:
        """What is odd about files of any split, by their paths: they do not count, or are the same as another file."""
        odd, seen = dict[str, str](), dict[tuple[int, bytes], str]()
        by_size: dict[int, list[str]] = {}
        for path in self._list_all():
            by_size.setdefault(os.stat(self.path / path).st_size, []).append(path)
        for size, paths in by_size.items():
            for path in paths if len(paths) > 1 else ():
                digest = size, hashlib.sha256((self.path / path).read_bytes()).digest()
                if (first := seen.setdefault(digest, path)) != path:
                    odd[path] = f"has the same content as {first}"
        for own in dict.fromkeys(self.split_folders.values()):
            folders = [entry.name for entry in self._scan(self.path / own) if entry.is_dir()]
            others = [f"{name}/{other}" for name in folders for other in self._list(self.path / own / name)[1]]
            others += [entry.name for entry in self._scan(self.path / own) if not entry.is_dir()]
            odd |= {str(PurePath(own, each)): "is left out" for each in sorted(others)}
        return odd

    def _list_all(self) -> list[str]:
        """The files of all splits by their paths below the folder of the data set."""
        splits = {self.split_folders[split]: split for split in reversed(SPLITS)}
        return [
            str(PurePath(own, name, file))
            for own, split in splits.items()
            for name, files in self._list_classes(split)[0].items()
            for file in files
        ]

    def _list_classes(self, split: str) -> tuple[dict[str, list[str]], list[str]]:
        """The files of each class by their paths below its folder, and the paths of other files below that of the split."""
        train, own = self.split_folders["train"], self.split_folders[split]
        classes = self.classes()
        listed, dropped = dict[str, list[str]](), list[str]()
        for name in sorted(entry.name for entry in self._scan(self.path / own) if entry.is_dir()):
            folder = self.path / own / name
            if name not in classes:
                raise ValueError(
                    f"data.folder={self.folder!r}: {folder} is a class that the training split does "
                    f"not have; every split needs the same folders; remove it, or add {self.path / train / name}"
                )
            files, others = self._list(folder)
            if self.skipped:
                files = [file for file in files if str(PurePath(own, name, file)) not in self.skipped]
            if not files and (others or split == "train"):
                readable = " that can be read" if self.skipped else ""
                raise ValueError(
                    f"data.folder={self.folder!r}: {folder} has no {self.kind.noun}{readable}, but "
                    f"{count(others) or 'no other file'}; {self.kind.rule}; convert them, or remove the folder and lower "
                    "data.num_classes"
                )
            dropped += [f"{name}/{other}" for other in others]
            listed[name] = files
        return listed, dropped

    def _find_group(self, path: str) -> str:
        assert self.group_pattern is not None
        if (match := self.group_pattern.search(path)) is None:
            raise ValueError(
                f"data.group_pattern={self.group_pattern.pattern!r} does not match {path!r}; every {self.kind.noun} needs a "
                "group; correct the pattern"
            )
        return match.group()

    def _part(self, keys: Sequence[str], split: str) -> list[str]:
        """The files of a class, or the groups, that a split gets: in the order of a hash, which new files do not change."""
        shared = [each for each in SPLITS[1:] if self.split_folders[each] == self.split_folders["train"]]
        if split not in ("train", *shared) or not shared:
            return list(keys)
        if not self.held_out_share and (self.fold is None or split == "test"):
            return list(keys)
        order = sorted(keys, key=lambda key: hashlib.sha256(os.fsencode(key)).digest())
        size = max(1, round(len(order) * self.held_out_share)) if len(order) > len(shared) else 0
        size = size if self.held_out_share else 0
        if self.fold is not None and split != "test":
            rest = [*order[: size * shared.index("test")], *order[size * len(shared) :]] if "test" in shared else order
            part = find_fold(len(rest), self.fold, self.num_folds)
            return sorted(rest[part] if split == "val" else [*rest[: part.start], *rest[part.stop :]])
        start = size * shared.index(split) if split in shared else size * len(shared)
        return sorted(order[start : start + size] if split in shared else order[start:])

    def _list(self, folder: Path, above: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
        """The files of a class by their sorted paths below its folder, and other files."""
        files, others = list[str](), list[str]()
        above = (*above, os.path.realpath(folder))
        for entry in self._scan(folder):
            if entry.is_dir():
                if os.path.realpath(entry.path) not in above:  # else a link leads back to where it is
                    nested, more = self._list(Path(entry.path), above)
                    files += [f"{entry.name}/{name}" for name in nested]
                    others += [f"{entry.name}/{name}" for name in more]
            elif not entry.name.lower().endswith(self.kind.endings):
                others.append(entry.name)
            elif entry.is_file():
                files.append(entry.name)
            elif entry.is_symlink() and not os.path.exists(entry.path):
                raise ValueError(
                    f"data.folder={self.folder!r}: {entry.path} is a link to {os.readlink(entry.path)}, which does not exist; "
                    f"every {self.kind.noun} must be readable; restore the file or remove the link"
                )
            else:
                others.append(f"{entry.name} (no file)")
        return sorted(files), sorted(others)

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
    """The folder of each split: by its usual names; without one the folder of the training files; "." without that.

    Args:
        path: of the data set.

    Raises:
        ValueError: it cannot be listed.
    """
    try:
        below = {entry.name.lower(): entry.name for entry in os.scandir(path) if entry.is_dir()}
    except OSError as err:
        raise ValueError(f"{path} cannot be listed ({err.strerror}); name a folder") from err
    found = {split: next((below[name] for name in names if name in below), "") for split, names in _NAMES.items()}
    train = found["train"] or "."
    return {split: (folder if found["train"] else "") or train for split, folder in found.items()}


def find_folders(kind: FileKind, data: Mapping[str, Any]) -> tuple[ClassFolders, dict[str, Any]]:
    """The folders of a data set whose arguments may be `auto`, and those arguments that do not depend on the kind.

    Raises:
        ValueError: the folder is missing, or has no files in one folder per class.
    """
    root, folder = find_root(data, "folder"), str(data["folder"])
    path, found, skipped = Path(root, folder), data["split_folders"], data["skipped"]
    split_folders = find_split_folders(path) if found == "auto" else {name: name for name in SPLITS} | (found or {})

    def skip(files: Collection[str]) -> ClassFolders:
        return ClassFolders(
            kind, path, folder, split_folders, float(data["held_out_share"]), data["fold"], int(data["num_folds"]),
            data["group_pattern"], files,
        )  # fmt: skip

    if skipped == "auto":
        skipped = sorted(skip([]).find_faults()) if data["on_bad_example"] == "skip" else []
    folders = skip(skipped)
    classes = folders.classes()
    if len(classes) < 2:
        raise ValueError(
            f"data.folder={folder!r}: {path / split_folders['train']} has {len(classes)} folders, but every class needs "
            f"one, and there are at least two classes; put the {kind.noun}s of each class into a folder with its name"
        )
    return folders, {
        "root": root, "split_folders": split_folders, "skipped": skipped, "num_classes": len(classes),
        "num_train": len(folders.files("train")[0]),
    }  # fmt: skip


def count(others: Sequence[str]) -> str:
    """Files by ending, such as ``3 .txt, 1 .json``, the most frequent first."""
    endings = Counter(Path(name).suffix.lower() or "without an ending" for name in others)
    shown = [f"{number} {ending}" for ending, number in endings.most_common(5)]
    return ", ".join([*shown, "..."] if len(endings) > 5 else shown)
