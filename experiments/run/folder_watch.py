"""Notices that a folder was removed or renamed while a process works in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from experiments.core.files.read_file import MissingFileError

T = TypeVar("T")

GONE_S = 20.0
"""A folder that is missing for less time may come back: it was renamed for a moment, or its file server has restarted."""
POLL_S = 0.5
MAX_TRIES, PAUSE_S = 5, 0.05
"""To work in a folder that another process is just renaming or removing."""


class FolderWatch:
    """Watches one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._missing_since: float | None = None

    def is_gone(self, after_s: float | None = None) -> bool:
        """Return whether the folder has been missing for ``after_s`` seconds, `GONE_S` by default; call it repeatedly."""
        if self.folder.is_dir():
            self._missing_since = None
            return False
        now = time.monotonic()
        self._missing_since = self._missing_since if self._missing_since is not None else now
        return now - self._missing_since >= (GONE_S if after_s is None else after_s)


def wait_until_back(folder: Path) -> bool:
    """Wait for a missing folder; return False if it is gone."""
    watch = FolderWatch(folder)
    while not folder.is_dir():
        if watch.is_gone():
            return False
        time.sleep(POLL_S)
    return True


def try_again_once_back(folder: Path, work: Callable[[], T]) -> T:
    """Return ``work()``, and call it again a few times if a file was missing because its folder was renamed for a moment.

    Args:
        folder: to wait for.
        work: can be repeated.

    Raises:
        FileNotFoundError, MissingFileError: of ``work``, if the folder is gone or the file is still missing.
    """
    for _ in range(MAX_TRIES - 1):
        try:
            return work()
        except (FileNotFoundError, MissingFileError):
            if not wait_until_back(folder):
                raise
            time.sleep(PAUSE_S)
    return work()


def lacks_file_of(folder: Path, err: BaseException) -> bool:
    """Whether the cause of an error is that a file of this folder is missing."""
    cause = err if isinstance(err, FileNotFoundError) else err.__cause__
    filename = cause.filename if isinstance(cause, FileNotFoundError) else None
    return isinstance(filename, str | Path) and Path(filename).is_relative_to(folder)
