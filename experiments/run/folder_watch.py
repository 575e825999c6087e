"""Notices that a folder was removed or renamed while a process works in it."""

from __future__ import annotations

import time
from pathlib import Path

GONE_S = 20.0
"""A folder that is missing for less time may come back: it was renamed for a moment, or its file server has restarted."""
POLL_S = 0.5


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
