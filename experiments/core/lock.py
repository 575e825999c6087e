"""Locks between processes, by `flock` on a file. The kernel releases a lock when its process ends, also after kill -9."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Final

MODE: Final = "a+"
"""How to open a lock file. On NFS a shared lock needs a readable file, and an exclusive lock a writable one."""


class LocksUnsupportedError(OSError):
    """The file system has no `flock`, as on some clusters."""


def acquire(file: IO[str], *, shared: bool = False, blocking: bool = True) -> None:
    """Lock an open file until it is closed, or convert the lock that it has.

    Args:
        file: opened with `MODE`. Each open file is a holder of its own, also within one process.
        shared: any number of files can have a shared lock; it excludes an exclusive one.
        blocking: wait for the other holders.

    Raises:
        BlockingIOError: ``blocking`` is False and another holder excludes this lock.
        LocksUnsupportedError: the file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if blocking else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as err:
        raise LocksUnsupportedError(err.errno, err.strerror, file.name) from err


@contextmanager
def locked(path: Path, *, shared: bool = False, blocking: bool = True) -> Iterator[None]:
    """Hold the lock of a file, which is created if necessary, while the context is open.

    Raises:
        OSError: as `acquire`, or the file cannot be opened.
    """
    with path.open(MODE, encoding="utf-8") as file:
        acquire(file, shared=shared, blocking=blocking)
        yield


@contextmanager
def locked_patiently(path: Path, patience_s: float) -> Iterator[None]:
    """As `locked`, but a holder that keeps the lock for longer than ``patience_s`` is passed over: it may have been stopped.

    The file is then replaced, so that the others go on under a new lock. What the lock protects must bear that the old holder
    comes back, and a file system whose locks do nothing.

    Raises:
        OSError: as `acquire`, or the file cannot be opened.
    """
    deadline, pause_s = time.monotonic() + patience_s, 0.001
    with ExitStack() as stack:
        while True:
            file = stack.enter_context(path.open(MODE, encoding="utf-8"))
            with suppress(BlockingIOError):
                acquire(file, blocking=False)
                if _is_at(path, file):  # else it was removed or replaced while this process waited for it
                    break
            if time.monotonic() > deadline:
                if _is_at(path, file):
                    path.unlink(missing_ok=True)  # the next one to come makes a new file
                deadline = time.monotonic() + patience_s
            stack.close()
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.05)
        yield


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
