"""Atomic writes: a crash leaves the old file or the new one, never a part."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


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
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Wait until the content of a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
