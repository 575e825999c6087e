"""Locks between processes, by `flock` on a file. The kernel releases a lock when its process ends, also after kill -9."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
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
    with path.open(MODE) as file:
        acquire(file, shared=shared, blocking=blocking)
        yield
