"""Atomic writes: a crash leaves the old file or the new one, never a part."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

MAX_TRIES = 5
_swept: set[Path] = set()
"""Files whose left-over partial files this process has removed."""


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Replace a file atomically.

    Args:
        path: of the file.
        text: its new content.
        mode: permissions, of which the umask takes away some. The file never has others: 0o600 for a secret.

    Raises:
        OSError: the file cannot be written; the old one is unchanged.
    """
    write_bytes(path, text.encode(), mode)


def write_bytes(path: Path, content: bytes, mode: int = 0o666) -> None:
    """As `write_text`, for bytes."""
    if path not in _swept:  # once: a sweep's folder has a folder for each of its trials, and listing it takes time
        sweep_partials(path)
        _swept.add(path)
    for left in reversed(range(MAX_TRIES)):
        try:
            with open_partial(path, mode) as (file, partial):
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                partial.replace(path)
            break
        except FileNotFoundError:  # removed by another writer, on a file system whose locks do nothing
            if not left or not path.parent.is_dir():
                raise
    fsync(path.parent)


@contextmanager
def open_partial(path: Path, mode: int = 0o666) -> Iterator[tuple[IO[bytes], Path]]:
    """Make a new file beside ``path``, to be renamed to it once it is complete. Leaving the context removes it.

    A lock marks it as in use, so that `sweep_partials` removes it only after its writer has died.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield file, partial
    finally:
        partial.unlink(missing_ok=True)


def sweep_partials(path: Path) -> None:
    """Remove the partial files of ``path`` that killed writers left."""
    with contextlib.suppress(OSError):
        for left in path.parent.iterdir():
            if left.name.startswith(f".{path.name}.") and left.name.endswith(".partial") and left.is_file():
                _remove_if_unused(left)


def is_unused_partial(partial: Path) -> bool:
    """Whether the writer of a partial file is gone."""
    try:
        with partial.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:  # refused while the writer lives
        return False


def _remove_if_unused(partial: Path) -> None:
    with contextlib.suppress(OSError), partial.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # refused while the writer lives
        partial.unlink()


def fsync(path: Path) -> None:
    """Wait until the content of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
