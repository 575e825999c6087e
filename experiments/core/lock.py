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


STOPPED_S, HELD_S = 5.0, 600.0
"""How long to wait for a holder that is stopped, and for one that works."""


class LocksUnsupportedError(OSError):
    """The file system has no `flock`, as on some clusters."""


class LockHeldError(OSError):
    """Another process keeps a lock; the message names the process and says how to end the wait."""


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
def locked_within_limits(path: Path) -> Iterator[None]:
    """As `locked`, but do not wait for ever: `STOPPED_S` for a holder that is stopped (SIGSTOP, Ctrl-Z), else `HELD_S`.

    Raises:
        LockHeldError: a holder keeps the lock for longer.
        OSError: as `acquire`, or the file cannot be opened.
    """
    begin, pause_s = time.monotonic(), 0.001
    with path.open(MODE, encoding="utf-8") as file:
        while True:
            try:
                acquire(file, blocking=False)
                break
            except BlockingIOError as err:
                if (waited_s := time.monotonic() - begin) >= STOPPED_S:
                    _check_holder(path, file, waited_s, err)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.2)
        yield


def _check_holder(path: Path, file: IO[str], waited_s: float, err: OSError) -> None:
    """Raise a LockHeldError if the holder is stopped, or has had `HELD_S`."""
    pid = _find_holder(file)
    if pid is not None and _is_stopped(pid):
        raise LockHeldError(
            f"process {pid} is stopped and has the lock; continue it with `kill -CONT {pid}`, or end it with "
            f"`kill -KILL {pid}` ({path})"
        ) from err
    if waited_s >= HELD_S:
        holder = "a process on another machine" if pid is None else f"process {pid}"
        raise LockHeldError(f"{holder} has had the lock for {HELD_S:.0f} s; wait for it, or end it ({path})") from err


def _find_holder(file: IO[str]) -> int | None:
    """Find the process of this machine that has the lock of an open file."""
    info = os.fstat(file.fileno())
    place = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            fields = (
                line.split()
            )  # number, kind, ADVISORY, WRITE, process, place, ...; a waiting process has "->" second
            if fields[1] == "FLOCK" and fields[5] == place:
                return int(fields[4])
    return None


def _is_stopped(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] in "Tt"


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
