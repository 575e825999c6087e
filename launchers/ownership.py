"""Whether a folder or file belongs to this user alone.

A place whose path others can guess, as in /tmp or /dev/shm, may have been made by another user, with content that runs as you.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path


def find_foreign_owner(path: Path) -> str | None:
    """Describe why another user decides what is at a path; None if only this user does, or root, or nothing is there."""
    try:
        info = path.lstat()
    except OSError:
        return None
    if stat.S_ISLNK(info.st_mode):
        return f"is a link to {os.readlink(path)}"
    if info.st_uid not in (os.geteuid(), 0):
        return f"belongs to user {info.st_uid}, not to you"
    if info.st_mode & stat.S_IWOTH and not info.st_mode & stat.S_ISVTX:
        return f"may be written by every user (mode {stat.S_IMODE(info.st_mode):04o})"
    return None


def find_squatter(path: Path) -> str | None:
    """As `find_foreign_owner`, but only where every user may make folders, as in /tmp: elsewhere people share folders."""
    try:
        is_public = path.parent.stat().st_mode & stat.S_IWOTH
    except OSError:
        return None
    return find_foreign_owner(path) if is_public else None


def make_private(path: Path) -> None:
    """Create a folder for this user alone, if there is none.

    Raises:
        PermissionError: another user owns it, or it is a link.
        OSError: it cannot be created.
    """
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    problem = find_foreign_owner(path)
    if problem is not None:
        raise PermissionError(f"{path} {problem}")


def find_sharing(path: Path) -> str | None:
    """As `find_foreign_owner`, and also describe whether other users may read, enter or write it, or replace it."""
    problem = find_foreign_owner(path)
    if problem is not None or not path.exists():
        return problem
    info, parent = path.lstat(), path.parent.stat()
    if info.st_uid != os.geteuid():
        return f"belongs to user {info.st_uid}, not to you"
    if info.st_mode & 0o077:
        return f"is open to other users (mode {stat.S_IMODE(info.st_mode):04o})"
    if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
        return f"can be replaced by every user, who may write to {path.parent}"
    return None
