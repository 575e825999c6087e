"""Where every photo lies in shards, found once: shards are read in order, and training draws at random."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modules.data.base import DataError

IMAGES = (".jpg", ".jpeg", ".png")
LABEL = ".cls"


@dataclass(frozen=True)
class TarIndex:
    """Every photo of some shards, in their order."""

    shards: np.ndarray
    """int32 [photos], which of the shards it lies in."""
    offsets: np.ndarray
    """int64 [photos], its first byte there."""
    sizes: np.ndarray
    """int64 [photos], bytes of it."""
    labels: np.ndarray
    """int64 [photos]."""


def tar_index(folder: str, paths: Sequence[Path]) -> TarIndex:
    """The index of shards as the WebDataset format has them: a photo ``KEY.jpg`` and beside it its class, ``KEY.cls``.

    Only heads are read, and classes. As that takes minutes for a large set, the index is kept in the user's cache; names and
    sizes of the shards say whether it still holds. The library webdataset (1.0.2) reads shards in order alone.

    Args:
        folder: what the set is called in messages.
        paths: the shards, plain tar files.

    Raises:
        DataError: one cannot be read, or is none.
    """
    kept = _kept(paths)
    if (found := _read(kept)) is not None:
        return found
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
    _write(kept, index)
    return index


def _photos(folder: str, path: Path) -> list[tuple[int, int, int]]:
    """Offset, size and class of the photos of one shard."""
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                # The key ends at the first dot of the name, whatever folder it is in.
                where, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                key, ending = f"{where}/{stem}", f".{ending.lower()}"
                if member.isfile() and ending in IMAGES:
                    images[key] = (member.offset_data, member.size)
                elif member.isfile() and ending == LABEL and (file := shard.extractfile(member)) is not None:
                    labels[key] = int(file.read())
    except (OSError, tarfile.TarError, ValueError) as err:
        raise DataError(
            f"data.folder={folder!r}: {path} is damaged or no shard ({err}); a shard is a plain tar file of KEY.jpg and "
            f"KEY{LABEL}, a number as text; make or fetch it again"
        ) from err
    if without := sorted(images.keys() - labels.keys()):
        raise DataError(
            f"data.folder={folder!r}: {path} has {without[0].lstrip('/')} without its class; beside every photo KEY.jpg lies "
            f"KEY{LABEL}; make the shard again"
        )
    return [(*images[key], labels[key]) for key in images]


def _kept(paths: Sequence[Path]) -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "lathe" / "shards"
    told = json.dumps([[str(path), path.stat().st_size] for path in paths])
    return cache / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.npz"


def _read(kept: Path) -> TarIndex | None:
    try:
        with np.load(kept, allow_pickle=False) as members:
            return TarIndex(*(members[name] for name in ("shards", "offsets", "sizes", "labels")))
    except (OSError, ValueError, KeyError, EOFError):
        return None


def _write(kept: Path, index: TarIndex) -> None:
    """Keep it, where there is a place for it; several ranks may do so at once."""
    content = io.BytesIO()
    np.savez(content, shards=index.shards, offsets=index.offsets, sizes=index.sizes, labels=index.labels)
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, delete=False) as file:
            file.write(content.getvalue())
        os.replace(file.name, kept)
    except OSError:  # it is made again the next time
        return
