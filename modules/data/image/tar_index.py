"""An index of the photos in tar shards, for random access."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import secrets
import stat
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.data.base import DataError
from modules.data.image.decoding import ENDINGS

LABEL, PARTIAL = ".cls", ".partial"


@dataclass(frozen=True)
class TarIndex:
    """The positions and classes of all photos, in the order of the shards."""

    shards: np.ndarray
    """int32 [photos], number of the shard."""
    offsets: np.ndarray
    """int64 [photos], first byte in the shard."""
    sizes: np.ndarray
    """int64 [photos], number of bytes."""
    labels: np.ndarray
    """int64 [photos]."""


def tar_index(folder: str, paths: Sequence[Path]) -> TarIndex:
    """Index shards in the WebDataset format: photos ``KEY.jpg`` and their classes ``KEY.cls``.

    Only headers and classes are read. This takes minutes for a large set, so the index is cached in the user's cache folder,
    under a hash of the names, sizes and times of the shards. The library webdataset (1.0.2) only reads shards sequentially.

    Args:
        folder: of the data set, for messages.
        paths: the shards, uncompressed tar files.

    Raises:
        DataError: a shard cannot be read, or has another format.
    """
    for path in paths:
        if not path.is_file():
            raise DataError(
                f"data.folder={folder!r}: {path} is not a file, or a link to a file that is gone; every shard must be a file; "
                "restore or remove it"
            )
    cache_path = _cache_path(paths)
    if (cached := _read(cache_path)) is not None:
        return cached
    shards, offsets, sizes, labels = list[int](), list[int](), list[int](), list[int]()
    for number, path in enumerate(paths):
        for offset, size, label in _photos(folder, path):
            shards.append(number)
            offsets.append(offset)
            sizes.append(size)
            labels.append(label)
    index = TarIndex(
        np.array(shards, np.int32), np.array(offsets, np.int64), np.array(sizes, np.int64), np.array(labels, np.int64)
    )
    _write(cache_path, index)
    return index


def _photos(folder: str, path: Path) -> list[tuple[int, int, int]]:
    """Return offset, size and class of the photos of a shard."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                # The key ends at the first dot of the name, whatever folder it is in.
                where, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key, ending = f"{where}/{stem}", f".{ending.lower()}"
                if member.isfile() and ending in ENDINGS:
                    images[key] = (member.offset_data, member.size)
                elif member.isfile() and ending == LABEL and (file := shard.extractfile(member)) is not None:
                    labels[key] = int(np.int64(int(file.read())))
    except (OSError, tarfile.TarError, ValueError, OverflowError) as err:
        raise DataError(
            f"data.folder={folder!r}: {path} is damaged or not a shard ({err}); a shard is an uncompressed tar file of KEY.jpg "
            f"and KEY{LABEL}, a number as text; create or download it again"
        ) from err
    if without := sorted(images.keys() - labels.keys()):
        raise DataError(
            f"data.folder={folder!r}: {path} has {without[0].lstrip('/')} without its class; every photo KEY.jpg needs a file "
            f"KEY{LABEL}; create the shard again"
        )
    return [(*images[key], labels[key]) for key in images]


def _cache_path(paths: Sequence[Path]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lathe" / "shards"
    # Tar files are padded, so a rebuilt shard often has the old size. No program can set the time of a change (ctime).
    stats = [(path, path.stat()) for path in paths]
    key = json.dumps(
        [[str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino] for path, stat in stats]
    )
    return cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


def _read(cache_path: Path) -> TarIndex | None:
    try:
        if not _is_private(cache_path.parent) or not _is_private(cache_path):
            return None
        with np.load(io.BytesIO(cache_path.read_bytes()), allow_pickle=False) as members:
            return TarIndex(*(members[name] for name in ("shards", "offsets", "sizes", "labels")))
    except Exception:  # a damaged cache raises errors of many classes; it is written again
        return None


def _is_private(path: Path) -> bool:
    """Whether only this user, or root, decides what is at a path: an index of another user would give wrong classes."""
    info = path.lstat()
    return info.st_uid in (os.geteuid(), 0) and not stat.S_ISLNK(info.st_mode) and not info.st_mode & stat.S_IWOTH


def _write(cache_path: Path, index: TarIndex) -> None:
    """Write the cache if its folder is writable and this user's; several ranks may do so at the same time."""
    partial = cache_path.with_name(f"{secrets.token_hex(8)}{PARTIAL}")
    try:
        cache_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(cache_path.parent):
            return
        for left in cache_path.parent.glob(f"*{PARTIAL}"):
            _remove_if_unused(left)
        with partial.open("xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            np.savez(file, shards=index.shards, offsets=index.offsets, sizes=index.sizes, labels=index.labels)
            file.flush()
            partial.replace(cache_path)
    except OSError:  # the next run indexes again
        with contextlib.suppress(OSError):
            partial.unlink()


def _remove_if_unused(partial: Path) -> None:
    """Remove a file whose writer was killed: a writer that lives has its lock."""
    with contextlib.suppress(OSError), partial.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        partial.unlink()
